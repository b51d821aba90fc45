//! The regular expressions of the table of reasons, and a quick test of which ones can match a
//! reply. One automaton for all of them would have far too many states, because many wait for a
//! second word after a first. So each regular expression lists pieces without which it cannot
//! match. One pass over the reply finds all pieces, and only the candidates are run.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::OnceLock;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind};

use super::pieces::{LENGTH_MIN, Pieces};

/// The largest size of a compiled text, and of the automaton that matches with it, in bytes.
const SIZE_MAX: usize = 1 << 20;

/// Pieces of this length or more, in bytes, count as equally good.
const LENGTH_ENOUGH: usize = 6;

/// The largest number of alternative pieces in one group. A larger group excludes too few replies.
const PIECES_MAX: usize = 64;

/// The largest number of texts.
const TEXTS_MAX: usize = 512;

/// The largest number of pieces of all texts together.
const PIECES_ALL: usize = 1024;

/// The largest number of groups for one text.
const GROUPS_MAX: usize = 4;

/// Pieces of which at least one occurs in every reply that the text matches.
type Group = Vec<Vec<u8>>;

/// Regular expressions, numbered in the order in which they were given. They are in lower case, and
/// the replies must be too: that is cheaper than matching both cases of each letter.
pub(super) struct Texts {
    patterns: Vec<String>,
    /// Compiled at their first use, since most are never used.
    compiled: Vec<OnceLock<Option<Regex>>>,
    pieces: Pieces,
    /// For each piece: the texts that contain it, each with the bit of the group that it belongs
    /// to.
    owners: Vec<Vec<(u16, u8)>>,
    /// For each text, the bits of all its groups. Each group must have occurred.
    groups: Vec<u8>,
    /// The texts that need no piece.
    always: Candidates,
    /// For each text, whether it consists of nothing but its pieces. If one of these occurs, the
    /// text matches.
    plain: Vec<bool>,
}

/// The texts that may match one reply, as a bit set.
#[derive(Clone, Copy, Default)]
pub(super) struct Candidates([u64; TEXTS_MAX / 64]);

impl Candidates {
    fn insert(&mut self, text: usize) {
        self.0[text / 64] |= 1 << (text % 64);
    }

    /// Whether this text is one of them.
    pub(super) fn contains(&self, text: usize) -> bool {
        self.0[text / 64] >> (text % 64) & 1 == 1
    }

    /// Whether one of the candidates within `texts` fulfils a condition. They are tried in
    /// ascending order.
    fn any_within(&self, texts: &Range<usize>, mut fulfils: impl FnMut(usize) -> bool) -> bool {
        (texts.start / 64..texts.end.div_ceil(64)).any(|n| {
            set_bits(self.0[n])
                .map(|bit| n * 64 + bit)
                .any(|text| texts.contains(&text) && fulfils(text))
        })
    }

    /// Calls `found` with each candidate, in ascending order.
    pub(super) fn for_each(&self, mut found: impl FnMut(usize)) {
        for (n, word) in self.0.iter().enumerate() {
            set_bits(*word).for_each(|bit| found(n * 64 + bit));
        }
    }
}

/// Returns the positions of the bits of `word` that are set, in ascending order.
fn set_bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < u64::BITS).then_some(bit as usize)
    })
}

impl Texts {
    /// Takes the regular expressions. An error names the one that is not valid or not allowed.
    pub(super) fn new(patterns: Vec<String>) -> Result<Self, String> {
        let (mut words, mut owners, mut groups) = (
            Vec::<Vec<u8>>::new(),
            Vec::<Vec<(u16, u8)>>::new(),
            Vec::new(),
        );
        let mut plain = Vec::new();
        for (text, pattern) in (0..).zip(&patterns) {
            let mut parser = ParserBuilder::new().unicode(false).utf8(false).build();
            // A capital letter directly after a backslash is a character class, and allowed.
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

    /// Returns the texts that may match `reply`, which must be in lower case. Takes one pass.
    pub(super) fn candidates(&self, reply: &[u8]) -> Candidates {
        let mut seen = [0_u64; PIECES_ALL / 64];
        let mut occurred = [0_u8; TEXTS_MAX];
        let mut candidates = self.always;
        self.pieces.for_each_in(reply, |piece, _| {
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

    /// Whether one of the candidates within `texts` matches `reply`, which must be in lower case.
    pub(super) fn any_matches(
        &self,
        texts: &Range<usize>,
        candidates: &Candidates,
        reply: &[u8],
    ) -> bool {
        let matches = |text| {
            self.plain[text]
                || self
                    .compiled(text)
                    .is_some_and(|regex| regex.is_match(reply))
        };
        candidates.any_within(texts, matches)
    }

    /// Returns the compiled text with this number, or `None` if it is too large. A test ensures
    /// that no text is.
    pub(super) fn compiled(&self, text: usize) -> Option<&Regex> {
        let compile = || {
            // Matching by byte is several times as fast as matching by Unicode character.
            let mut builder = RegexBuilder::new(&self.patterns[text]);
            builder
                .unicode(false)
                .size_limit(SIZE_MAX)
                .dfa_size_limit(SIZE_MAX);
            builder.build().ok()
        };
        self.compiled[text].get_or_init(compile).as_ref()
    }

    /// Returns the number of texts.
    pub(super) fn len(&self) -> usize {
        self.patterns.len()
    }
}

/// Whether a part of a pattern contains a literal capital letter. The first letter after an escape
/// is a character class instead.
fn has_capital(part: &str, is_escaped: bool) -> bool {
    part.bytes()
        .skip(usize::from(is_escaped))
        .any(|byte| byte.is_ascii_uppercase())
}

/// Whether `hir` is one piece or a choice between several, and nothing else.
fn is_plain(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Literal(_) => true,
        HirKind::Capture(capture) => is_plain(&capture.sub),
        HirKind::Alternation(parts) => parts.iter().all(is_plain),
        _ => false,
    }
}

/// Returns the groups of pieces without which `hir` cannot match: the best ones, with the longest
/// pieces first.
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
    // Short pieces occur in nearly every reply, and [`Pieces`] cannot find them.
    groups.retain(|group| shortest(group) >= LENGTH_MIN);
    groups.truncate(GROUPS_MAX);
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_candidate_only_if_it_can_match() {
        let patterns = ["user( \\w+)? (unknown|not found)", "[0-9]+", "(over)?quota"]
            .map(str::to_owned)
            .to_vec();
        let texts = Texts::new(patterns).unwrap();
        for (reply, expected) in [
            ("user", [false, true, false]),
            ("not found", [false, true, false]),
            ("not found: user", [true, true, false]),
            ("quota", [false, true, true]),
        ] {
            let candidates = texts.candidates(reply.as_bytes());
            assert_eq!(
                [0, 1, 2].map(|text| candidates.contains(text)),
                expected,
                "{reply}"
            );
        }
        let candidates = texts.candidates(b"the user is unknown");
        assert!(texts.any_matches(&(0..1), &candidates, b"the user is unknown"));
        assert!(!texts.any_matches(&(1..3), &candidates, b"the user is unknown"));
        for pattern in ["User", r"user\SX", r"\\Smith"] {
            assert!(Texts::new(vec![pattern.to_owned()]).is_err(), "{pattern}");
        }
        assert!(Texts::new(vec![r"\S+\W\d".to_owned()]).is_ok());
    }
}
