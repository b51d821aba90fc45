//! The texts of the table of reasons, and which of them may match a reply at all. All of them in one automaton would have
//! states without number, since many wait for a second word after a first. So each text is asked only where a piece that
//! it cannot do without occurs, and one pass over the reply finds all such pieces.

use std::ops::Range;
use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind};

/// How large a compiled text, and the automaton that reads with it, may grow, in bytes.
const SIZE_MAX: usize = 1 << 20;

/// From this length on a longer piece is no better than another.
const LENGTH_ENOUGH: usize = 6;

/// Of how many pieces one must occur, at most; texts with more are always asked.
const PIECES_MAX: usize = 64;

/// Regular expressions, numbered in the order in which they were given.
pub(super) struct Texts {
    patterns: Vec<String>,
    /// Compiled when they are first asked, since most never are.
    compiled: Vec<OnceLock<Option<Regex>>>,
    pieces: AhoCorasick,
    /// The texts that each piece is for.
    owners: Vec<Vec<usize>>,
    /// The texts that can do without any piece.
    always: Vec<usize>,
}

/// The texts that may match one reply, as a set of bits.
pub(super) struct Candidates(Vec<u64>);

impl Texts {
    /// Takes the texts over. The error says which is none, or cannot be searched for.
    pub(super) fn new(patterns: Vec<String>) -> Result<Self, String> {
        let (mut words, mut owners, mut always) = (Vec::<Vec<u8>>::new(), Vec::<Vec<usize>>::new(), Vec::new());
        for (text, pattern) in patterns.iter().enumerate() {
            let mut parser = ParserBuilder::new().unicode(false).utf8(false).build();
            let hir = parser.parse(pattern).map_err(|err| format!("\"{pattern}\": {err}"))?;
            let Some(pieces) = pieces(&hir) else {
                always.push(text);
                continue;
            };
            for piece in pieces {
                let piece = piece.to_ascii_lowercase();
                match words.iter().position(|word| *word == piece) {
                    Some(at) => owners[at].push(text),
                    None => {
                        words.push(piece);
                        owners.push(vec![text]);
                    }
                }
            }
        }
        let pieces = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::DFA))
            .build(&words)
            .map_err(|err| err.to_string())?;
        let compiled = patterns.iter().map(|_| OnceLock::new()).collect();
        Ok(Self { patterns, compiled, pieces, owners, always })
    }

    /// The texts that may match `reply`. One pass, whatever it says.
    pub(super) fn candidates(&self, reply: &[u8]) -> Candidates {
        let mut bits = vec![0; self.patterns.len().div_ceil(64)];
        let mut add = |text: &usize| bits[text / 64] |= 1 << (text % 64);
        self.always.iter().for_each(&mut add);
        for found in self.pieces.find_overlapping_iter(reply) {
            self.owners[found.pattern().as_usize()].iter().for_each(&mut add);
        }
        Candidates(bits)
    }

    /// Whether one of these texts matches `reply`.
    pub(super) fn any(&self, texts: Range<usize>, candidates: &Candidates, reply: &[u8]) -> bool {
        texts
            .filter(|text| candidates.0[text / 64] & 1 << (text % 64) != 0)
            .filter_map(|text| self.compiled(text))
            .any(|regex| regex.is_match(reply))
    }

    /// The text of this number; `None` where it is too large, which the tests look for.
    pub(super) fn compiled(&self, text: usize) -> Option<&Regex> {
        let compile = || {
            // Byte by byte is several times as fast as by letters of all scripts; only a to z have two cases here.
            let mut builder = RegexBuilder::new(&self.patterns[text]);
            builder.unicode(false).case_insensitive(true).size_limit(SIZE_MAX).dfa_size_limit(SIZE_MAX);
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

/// Pieces of which one is in all that `hir` matches: the longest that can be found.
fn pieces(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let pieces = match hir.kind() {
        HirKind::Literal(literal) => Some(vec![literal.0.to_vec()]),
        HirKind::Capture(capture) => pieces(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => pieces(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().filter_map(pieces).max_by_key(|pieces| {
            let shortest = pieces.iter().map(Vec::len).min().unwrap_or(0);
            (shortest.min(LENGTH_ENOUGH), usize::MAX - pieces.len())
        }),
        HirKind::Alternation(parts) => {
            parts.iter().map(pieces).collect::<Option<Vec<_>>>().map(|pieces| pieces.concat())
        }
        _ => None,
    };
    pieces.filter(|pieces| pieces.len() <= PIECES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_asked_only_where_it_can_match() {
        let patterns = ["user( \\w+)? (unknown|not found)", "[0-9]+", "(over)?quota"].map(str::to_owned).to_vec();
        let texts = Texts::new(patterns).unwrap();
        for (reply, asked) in
            [("user", [false, true, false]), ("Not Found", [true, true, false]), ("QUOTA", [false, true, true])]
        {
            let candidates = texts.candidates(reply.as_bytes());
            assert_eq!([0, 1, 2].map(|text| candidates.0[0] & 1 << text != 0), asked, "{reply}");
        }
        let candidates = texts.candidates(b"the User is UNKNOWN");
        assert!(texts.any(0..1, &candidates, b"the User is UNKNOWN"));
        assert!(!texts.any(1..3, &candidates, b"the User is UNKNOWN"));
    }
}
