//! What a text means in any of many languages. Each language has lists of words for things
//! (mailbox, sender) and for states (full, unknown). A sentence means what its words mean together,
//! in any order. Must not know reasons: `reasons.toml` says which meaning is which reason.

use std::cell::OnceCell;
use std::ops::Range;

use super::pieces::Pieces;

pub(super) mod load;

/// The kinds of words, each with its key in a language's file. A set of kinds is one bit for each.
const KINDS: [&str; 39] = [
    "recipient",
    "user",
    "mailbox",
    "address",
    "sender",
    "us",
    "server",
    "disk",
    "domain",
    "message",
    "size",
    "space",
    "quota",
    "sent",
    "person",
    "receive",
    "login",
    "format",
    "unknown",
    "exists",
    "full",
    "lacking",
    "enough",
    "exceeded",
    "disabled",
    "active",
    "moved",
    "no_longer",
    "too_big",
    "too_many",
    "too_fast",
    "unavailable",
    "available",
    "temporary",
    "rejected",
    "blocklist",
    "spam",
    "unclear",
    "none",
];

/// Returns the set of the kind with this key.
const fn kind(key: &str) -> u64 {
    let mut n = 0;
    while n < KINDS.len() {
        if is_same(KINDS[n], key) {
            return 1 << n;
        }
        n += 1;
    }
    panic!("there is no such kind of words")
}

/// Whether two keys are the same, in a constant.
const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut n = 0;
    while n < a.len() && n < b.len() && a[n] == b[n] {
        n += 1;
    }
    n == a.len() && n == b.len()
}

const ACTIVE: u64 = kind("active");
const ADDRESS: u64 = kind("address");
const AVAILABLE: u64 = kind("available");
const DISABLED: u64 = kind("disabled");
const DOMAIN: u64 = kind("domain");
const ENOUGH: u64 = kind("enough");
const EXISTS: u64 = kind("exists");
const LACKING: u64 = kind("lacking");
const MAILBOX: u64 = kind("mailbox");
const MOVED: u64 = kind("moved");
const NONE: u64 = kind("none");
const NO_LONGER: u64 = kind("no_longer");
const RECIPIENT: u64 = kind("recipient");
const REJECTED: u64 = kind("rejected");
const SENDER: u64 = kind("sender");
const UNAVAILABLE: u64 = kind("unavailable");
const UNCLEAR: u64 = kind("unclear");
const UNKNOWN: u64 = kind("unknown");
const USER: u64 = kind("user");

/// The things that can be unknown.
const RECIPIENTS: u64 = RECIPIENT | USER | MAILBOX | ADDRESS;

/// The states that are about the sender or the recipient, whichever is nearer.
const STATES: u64 = UNKNOWN | REJECTED | DISABLED | MOVED | NO_LONGER;

/// Kinds that mean another one if "not" is near them.
const OPPOSITES: [(u64, u64); 4] = [
    (EXISTS, UNKNOWN),
    (AVAILABLE, UNAVAILABLE),
    (ACTIVE, DISABLED),
    (ENOUGH, LACKING),
];

/// How far "not" may be before or after the word that it is about, in bytes.
const NOT_NEAR: usize = 40;

/// How far "no" may be before the thing that it is about, in bytes.
const NO_NEAR: usize = 48;

/// The largest number of words that are read in one text.
const HITS_MAX: usize = 96;

/// A sentence is at least this long, in bytes, so that abbreviations do not end one.
const SENTENCE_MIN: usize = 12;

/// A word of one or more languages, as it is searched: folded.
pub(super) struct Word {
    length: usize,
    edges: Edges,
    /// The language, or `None` for all, and the kind.
    uses: Vec<(Option<usize>, u64)>,
    /// The languages that the word is a sign of, as a bit set. Empty if English has the word too,
    /// so that English texts are not read in every language.
    signs: u32,
    /// The kinds that the word has in English.
    english: u64,
}

/// Whether a word may be part of a longer one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Edges {
    opens: bool,
    closes: bool,
}

/// The words of a language that are searched only near other words, because they are short.
#[derive(Default)]
struct Near {
    not: Vec<(String, Edges)>,
    none: Vec<(String, Edges)>,
}

/// What a sentence must contain.
struct Condition {
    /// From each of these sets at least one kind.
    all: Vec<u64>,
    none: u64,
}

struct Meaning {
    name: String,
    when: Vec<Condition>,
}

/// All languages.
pub(super) struct Words {
    words: Vec<Word>,
    /// The same words, as they are searched.
    pieces: Pieces,
    languages: Vec<Near>,
    meanings: Vec<Meaning>,
    /// The bits of all meanings.
    all_meanings: u32,
    english: Option<usize>,
}

/// One word in a text.
#[derive(Clone, Copy, Default)]
struct Hit {
    word: u16,
    start: u16,
    end: u16,
}

/// The words in one text.
struct Hits {
    list: [Hit; HITS_MAX],
    /// How many of them there are.
    count: usize,
    /// The kinds of all English words.
    english_kinds: u64,
    /// The languages that the words are signs of, as a bit set.
    signs: u32,
}

/// One text. Its words and meanings are found when they are first asked for, because most texts are
/// understood without them.
pub(super) struct Sighting<'w, 't> {
    words: &'w Words,
    text: &'t [u8],
    hits: OnceCell<Hits>,
    english: OnceCell<u32>,
    others: OnceCell<u32>,
}

impl Words {
    /// Returns the bits of all meanings with this name, as a bit set. Returns `None` if there are
    /// none.
    pub(super) fn meaning(&self, name: &str) -> Option<u32> {
        let named = self.meanings.iter().enumerate();
        let bits = named
            .filter(|(_, meaning)| meaning.name == name)
            .fold(0, |bits, (at, _)| bits | 1 << at);
        (bits != 0).then_some(bits)
    }

    /// Whether a text with these kinds of words can have one of these meanings. If not, its
    /// sentences need not be read.
    fn may_mean(&self, kinds: u64, meanings: u32) -> bool {
        let opposites = OPPOSITES.iter().filter(|(word, _)| kinds & word != 0);
        let mut kinds = opposites.fold(kinds, |kinds, (_, opposite)| kinds | opposite);
        if kinds & NONE != 0 {
            kinds |= UNKNOWN;
        }
        let can_hold = |one: &Condition| one.all.iter().all(|any| kinds & any != 0);
        let mut left = meanings & self.all_meanings;
        while left != 0 {
            let meaning = &self.meanings[left.trailing_zeros() as usize];
            if meaning.when.iter().any(can_hold) {
                return true;
            }
            left &= left - 1;
        }
        false
    }

    /// Begins to read `text`, which must be folded.
    pub(super) fn sighting<'w, 't>(&'w self, text: &'t [u8]) -> Sighting<'w, 't> {
        Sighting {
            words: self,
            text,
            hits: OnceCell::new(),
            english: OnceCell::new(),
            others: OnceCell::new(),
        }
    }

    /// Finds the words in a text.
    fn find(&self, text: &[u8]) -> Hits {
        let mut hits = Hits {
            list: [Hit::default(); HITS_MAX],
            count: 0,
            english_kinds: 0,
            signs: 0,
        };
        self.pieces.for_each_in(text, |word, end| {
            let known = &self.words[word];
            let start = end - known.length;
            let fits = |at: usize| u16::try_from(at).ok();
            if hits.count < HITS_MAX
                && known.edges.fit(text, start, end)
                && let (Some(word), Some(start), Some(end)) = (fits(word), fits(start), fits(end))
            {
                hits.list[hits.count] = Hit { word, start, end };
                hits.count += 1;
                hits.english_kinds |= known.english;
                hits.signs |= known.signs;
            }
        });
        hits
    }
}

impl Sighting<'_, '_> {
    fn hits(&self) -> &Hits {
        self.hits.get_or_init(|| self.words.find(self.text))
    }

    fn list(&self) -> &[Hit] {
        let hits = self.hits();
        &hits.list[..hits.count]
    }

    /// Whether the text has one of these meanings in English.
    pub(super) fn has_in_english(&self, meanings: u32) -> bool {
        if meanings == 0 {
            return false;
        }
        let words = self.words;
        let found = || words.english.map_or(0, |english| self.meanings(english));
        words.may_mean(self.hits().english_kinds, meanings)
            && meanings & *self.english.get_or_init(found) != 0
    }

    /// Whether the text has one of these meanings in a language other than English.
    pub(super) fn has(&self, meanings: u32) -> bool {
        meanings != 0 && meanings & *self.others.get_or_init(|| self.in_other_languages()) != 0
    }

    fn in_other_languages(&self) -> u32 {
        let signs = self.hits().signs;
        (0..load::LANGUAGES.len())
            .filter(|language| signs >> language & 1 == 1)
            .filter(|language| Some(*language) != self.words.english)
            .filter(|language| self.words.may_mean(self.all_kinds(*language), !0))
            .fold(0, |found, language| found | self.meanings(language))
    }

    /// Returns the kinds of all words in one language.
    fn all_kinds(&self, language: usize) -> u64 {
        let kinds = self.list().iter().map(|hit| self.kind(hit, language));
        kinds.fold(0, |all, kind| all | kind)
    }

    /// Returns the meanings of all sentences in one language, as a bit set.
    fn meanings(&self, language: usize) -> u32 {
        sentences(self.text)
            .filter_map(|sentence| {
                let kinds = self.kinds(language, &sentence);
                let is_meant = |meaning: &Meaning| meaning.when.iter().any(|one| one.holds(kinds));
                self.words.meanings.iter().position(is_meant)
            })
            .fold(0, |found, meaning| found | 1 << meaning)
    }

    /// Returns the kinds of words in a sentence.
    fn kinds(&self, language: usize, sentence: &Range<usize>) -> u64 {
        let near = &self.words.languages[language];
        let mut kinds = 0;
        // The first place of an unknown thing, of a domain and of a recipient.
        let (mut unknown, mut domain, mut recipient) = (usize::MAX, usize::MAX, usize::MAX);
        for hit in self.hits_in(sentence) {
            let (start, end) = (usize::from(hit.start), usize::from(hit.end));
            let mut kind = self.kind(hit, language);
            for (word, opposite) in OPPOSITES {
                if kind & word != 0 && near.is_not(self.text, sentence, start, end) {
                    kind |= opposite;
                }
            }
            if kind & RECIPIENTS != 0 {
                recipient = recipient.min(start);
                if near.is_none(self.text, sentence, start) {
                    kind |= UNKNOWN;
                }
            }
            if kind & UNKNOWN != 0 {
                unknown = unknown.min(start);
            }
            if kind & DOMAIN != 0 {
                domain = domain.min(start);
            }
            kinds |= kind;
        }
        // "User unknown in this domain" is about the user.
        if recipient < unknown && unknown < domain {
            kinds &= !DOMAIN;
        }
        if kinds & UNCLEAR != 0 {
            kinds &= !UNKNOWN;
        }
        if kinds & SENDER != 0 && kinds & RECIPIENT != 0 {
            kinds &= !self.farther(language, sentence, unknown);
        }
        kinds
    }

    /// Returns which of sender and recipient is farther from the states. So the state is about the
    /// other one. `unknown` is the place of a state that may come from the words near a thing.
    fn farther(&self, language: usize, sentence: &Range<usize>, unknown: usize) -> u64 {
        let is_state = |hit: &&Hit| self.kind(hit, language) & STATES != 0;
        let distance = |thing: u64| {
            self.hits_in(sentence)
                .filter(|hit| self.kind(hit, language) & thing != 0)
                .flat_map(|hit| {
                    let states = self.hits_in(sentence).filter(is_state);
                    let states = states.map(|state| usize::from(state.start));
                    let states = states.chain([unknown]);
                    states.map(|state| state.abs_diff(hit.start.into()))
                })
                .min()
        };
        match distance(RECIPIENT) < distance(SENDER) {
            true => SENDER,
            false => RECIPIENT,
        }
    }

    fn hits_in(&self, sentence: &Range<usize>) -> impl Iterator<Item = &Hit> {
        let Range { start, end } = *sentence;
        self.list()
            .iter()
            .filter(move |hit| (start..end).contains(&usize::from(hit.start)))
    }

    fn kind(&self, hit: &Hit, language: usize) -> u64 {
        self.words.words[usize::from(hit.word)]
            .uses
            .iter()
            .filter(|(of, _)| of.is_none_or(|of| of == language))
            .fold(0, |kinds, (_, kind)| kinds | kind)
    }
}

impl Condition {
    fn holds(&self, kinds: u64) -> bool {
        kinds & self.none == 0 && self.all.iter().all(|any| kinds & any != 0)
    }
}

impl Near {
    /// Whether "not" is near the word at this place.
    fn is_not(&self, text: &[u8], sentence: &Range<usize>, start: usize, end: usize) -> bool {
        let from = start.saturating_sub(NOT_NEAR).max(sentence.start);
        let to = (end + NOT_NEAR).min(sentence.end);
        occurs(&self.not, text, from..start) || occurs(&self.not, text, end..to)
    }

    /// Whether "no" is directly before the word at this place, or before one word in between.
    fn is_none(&self, text: &[u8], sentence: &Range<usize>, start: usize) -> bool {
        let from = start.saturating_sub(NO_NEAR).max(sentence.start);
        let spaces = text[from..start].iter().enumerate().rev();
        let third = spaces.filter(|(_, byte)| **byte == b' ').nth(2);
        let from = third.map_or(from, |(at, _)| from + at);
        occurs(&self.none, text, from..start)
    }
}

/// Whether one of the words is within this part of the text.
fn occurs(words: &[(String, Edges)], text: &[u8], part: Range<usize>) -> bool {
    words.iter().any(|(word, edges)| {
        text[part.clone()]
            .windows(word.len())
            .enumerate()
            .filter(|(_, found)| *found == word.as_bytes())
            .any(|(at, _)| {
                let start = part.start + at;
                edges.fit(text, start, start + word.len())
            })
    })
}

impl Edges {
    /// Whether a word with these edges can be at this place. Scripts without spaces have no edges.
    fn fit(self, text: &[u8], start: usize, end: usize) -> bool {
        let joins = |at: usize| at > 0 && at < text.len() && joins(text, at);
        (self.opens || !joins(start)) && (self.closes || !joins(end))
    }
}

/// Whether the letters before and after `at` belong to one word of a script with spaces.
fn joins(text: &[u8], at: usize) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric();
    // The first byte of a letter up to the end of Cyrillic. Longer letters are of other scripts.
    let begins = text[at];
    let after = is_letter(begins) || (0xc3..=0xd4).contains(&begins);
    let ends = text[at - 1];
    let before =
        is_letter(ends) || (ends >= 0x80 && at >= 2 && (0xc3..=0xd4).contains(&text[at - 2]));
    before && after
}

/// Returns the sentences of a text.
fn sentences(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start >= text.len() {
            return None;
        }
        let ends = |at: &usize| {
            let is_end = match text[*at] {
                b';' => true,
                b'.' | b'!' | b'?' => text.get(at + 1).is_none_or(|next| *next == b' '),
                _ => false,
            };
            is_end && at - start >= SENTENCE_MIN
        };
        let end = (start..text.len())
            .find(ends)
            .map_or(text.len(), |at| at + 1);
        let sentence = start..end;
        start = end;
        Some(sentence)
    })
}

#[cfg(test)]
mod tests;
