//! The texts of the table of reasons, and which of them may match a reply at all. All of them in
//! one automaton would have states without number, since many wait for a second word after a first.
//! So each text is asked only where a piece that it cannot do without occurs, and one pass over the
//! reply finds all such pieces.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::OnceLock;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind};

use super::pieces::{LENGTH_MIN, Pieces};

/// How large a compiled text, and the automaton that reads with it, may grow, in bytes.
const SIZE_MAX: usize = 1 << 20;

/// From this length on a longer piece is no better than another.
const LENGTH_ENOUGH: usize = 6;

/// Of how many pieces one must occur, at most; more of them say too little.
const PIECES_MAX: usize = 64;

/// How many texts there can be.
const TEXTS_MAX: usize = 512;

/// How many pieces all texts can have.
const PIECES_ALL: usize = 1024;

/// How many groups of pieces a text is known by, at most.
const GROUPS_MAX: usize = 4;

/// Pieces of which one must occur where a text matches.
type Group = Vec<Vec<u8>>;

/// Regular expressions, numbered in the order in which they were given. They are in lower case, and
/// so is what they are asked of: that costs less than two cases for each letter.
pub(super) struct Texts {
    patterns: Vec<String>,
    /// Compiled when they are first asked, since most never are.
    compiled: Vec<OnceLock<Option<Regex>>>,
    pieces: Pieces,
    /// The texts that each piece is for, and the bits of the groups that it stands in there.
    owners: Vec<Vec<(u16, u8)>>,
    /// The bits of all groups of each text: each of them must have occurred.
    groups: Vec<u8>,
    /// The texts that can do without any piece.
    always: Candidates,
    /// The texts that are nothing but their pieces: where one of those occurs, they match.
    plain: Vec<bool>,
}

/// The texts that may match one reply, as bits.
#[derive(Clone, Copy, Default)]
pub(super) struct Candidates([u64; TEXTS_MAX / 64]);

impl Candidates {
    fn insert(&mut self, text: usize) {
        self.0[text / 64] |= 1 << (text % 64);
    }

    /// Those within `texts`, in ascending order.
    pub(super) fn within(&self, texts: &Range<usize>) -> impl Iterator<Item = usize> {
        let Range { start, end } = *texts;
        let words = self.0[..end.div_ceil(64)]
            .iter()
            .enumerate()
            .skip(start / 64);
        words
            .flat_map(|(n, word)| ones(*word).map(move |bit| n * 64 + bit))
            .filter(move |text| (start..end).contains(text))
    }

    /// All of them, in ascending order.
    pub(super) fn all(&self) -> impl Iterator<Item = usize> {
        self.within(&(0..TEXTS_MAX))
    }
}

/// The bits of `word` that are set, in ascending order.
fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < u64::BITS).then_some(bit as usize)
    })
}

impl Texts {
    /// Takes the texts over. The error says which is none, or cannot be searched for.
    pub(super) fn new(patterns: Vec<String>) -> Result<Self, String> {
        let (mut words, mut owners, mut groups) = (
            Vec::<Vec<u8>>::new(),
            Vec::<Vec<(u16, u8)>>::new(),
            Vec::new(),
        );
        let mut plain = Vec::new();
        for (text, pattern) in (0..).zip(&patterns) {
            let mut parser = ParserBuilder::new().unicode(false).utf8(false).build();
            // An escaped capital is a class.
            if pattern
                .replace(r"\\", "")
                .split('\\')
                .enumerate()
                .any(|(n, part)| has_capital(part, n > 0))
            {
                return Err(format!("\"{pattern}\" is not in lower case"));
            }
            let hir = parser
                .parse(pattern)
                .map_err(|err| format!("\"{pattern}\": {err}"))?;
            let found = groups_of(&hir);
            groups.push((1 << found.len()) - 1);
            plain.push(is_plain(&hir) && found.len() == 1);
            for (group, pieces) in found.into_iter().enumerate() {
                for piece in pieces {
                    let at = words
                        .iter()
                        .position(|word| *word == piece)
                        .unwrap_or(words.len());
                    if at == words.len() {
                        words.push(piece);
                        owners.push(Vec::new());
                    }
                    owners[at].push((text, 1 << group));
                }
            }
        }
        if words.len() > PIECES_ALL || patterns.len() > TEXTS_MAX {
            return Err(format!(
                "{} texts with {} pieces are too many",
                patterns.len(),
                words.len()
            ));
        }
        let pieces = Pieces::new(&words);
        let compiled = patterns.iter().map(|_| OnceLock::new()).collect();
        let mut always = Candidates::default();
        groups
            .iter()
            .enumerate()
            .filter(|(_, groups)| **groups == 0)
            .for_each(|(text, _)| always.insert(text));
        Ok(Self {
            patterns,
            compiled,
            pieces,
            owners,
            groups,
            always,
            plain,
        })
    }

    /// The texts that may match `reply`, which is in lower case. One pass, whatever it says.
    pub(super) fn candidates(&self, reply: &[u8]) -> Candidates {
        let mut seen = [0_u64; PIECES_ALL / 64];
        let mut occurred = [0_u8; TEXTS_MAX];
        let mut candidates = self.always;
        self.pieces.each(reply, |piece| {
            let bit = 1 << (piece % 64);
            if seen[piece / 64] & bit != 0 {
                return;
            }
            seen[piece / 64] |= bit;
            for &(text, group) in &self.owners[piece] {
                let text = usize::from(text);
                occurred[text] |= group;
                if occurred[text] == self.groups[text] {
                    candidates.insert(text);
                }
            }
        });
        candidates
    }

    /// Whether one of the candidates within `texts` matches `reply`, which is in lower case.
    pub(super) fn any(&self, texts: &Range<usize>, candidates: &Candidates, reply: &[u8]) -> bool {
        let matches = |text| {
            self.plain[text]
                || self
                    .compiled(text)
                    .is_some_and(|regex| regex.is_match(reply))
        };
        candidates.within(texts).any(matches)
    }

    /// The text of this number; `None` where it is too large, which the tests look for.
    pub(super) fn compiled(&self, text: usize) -> Option<&Regex> {
        let compile = || {
            // Byte by byte is several times as fast as by letters of all scripts.
            let mut builder = RegexBuilder::new(&self.patterns[text]);
            builder
                .unicode(false)
                .size_limit(SIZE_MAX)
                .dfa_size_limit(SIZE_MAX);
            builder.build().ok()
        };
        self.compiled[text].get_or_init(compile).as_ref()
    }

    /// How many texts there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.patterns.len()
    }
}

/// Whether a part of a pattern has a capital that stands for itself; the first letter behind an
/// escape is a class.
fn has_capital(part: &str, is_escaped: bool) -> bool {
    part.bytes()
        .skip(usize::from(is_escaped))
        .any(|byte| byte.is_ascii_uppercase())
}

/// Whether `hir` is a piece, or one of several, and no more.
fn is_plain(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Literal(_) => true,
        HirKind::Capture(capture) => is_plain(&capture.sub),
        HirKind::Alternation(parts) => parts.iter().all(is_plain),
        _ => false,
    }
}

/// The groups of pieces that `hir` cannot match without: the best of them, the longest pieces
/// first.
fn groups_of(hir: &Hir) -> Vec<Group> {
    let mut groups = match hir.kind() {
        HirKind::Literal(literal) => vec![vec![literal.0.to_vec()]],
        HirKind::Capture(capture) => groups_of(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => groups_of(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().flat_map(groups_of).collect(),
        HirKind::Alternation(parts) => {
            let best = parts.iter().map(|part| groups_of(part).into_iter().next());
            best.collect::<Option<Vec<Group>>>()
                .map(|pieces| vec![pieces.concat()])
                .unwrap_or_default()
        }
        _ => Vec::new(),
    };
    let shortest = |group: &Group| group.iter().map(Vec::len).min().unwrap_or(0);
    groups.retain(|group| group.len() <= PIECES_MAX);
    groups.sort_by_key(|group| (Reverse(shortest(group).min(LENGTH_ENOUGH)), group.len()));
    // Short pieces are nearly everywhere, and cannot be looked for.
    groups.retain(|group| shortest(group) >= LENGTH_MIN);
    groups.truncate(GROUPS_MAX);
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_asked_only_where_it_can_match() {
        let patterns = ["user( \\w+)? (unknown|not found)", "[0-9]+", "(over)?quota"]
            .map(str::to_owned)
            .to_vec();
        let texts = Texts::new(patterns).unwrap();
        for (reply, asked) in [
            ("user", [false, true, false]),
            ("not found", [false, true, false]),
            ("not found: user", [true, true, false]),
            ("quota", [false, true, true]),
        ] {
            let candidates = texts.candidates(reply.as_bytes());
            assert_eq!(
                [0, 1, 2].map(|text| candidates.all().any(|asked| asked == text)),
                asked,
                "{reply}"
            );
        }
        let candidates = texts.candidates(b"the user is unknown");
        assert!(texts.any(&(0..1), &candidates, b"the user is unknown"));
        assert!(!texts.any(&(1..3), &candidates, b"the user is unknown"));
        for pattern in ["User", r"user\SX", r"\\Smith"] {
            assert!(Texts::new(vec![pattern.to_owned()]).is_err(), "{pattern}");
        }
        assert!(Texts::new(vec![r"\S+\W\d".to_owned()]).is_ok());
    }
}
