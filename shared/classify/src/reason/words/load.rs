//! Reads the word lists of all languages and the meanings. They ship with the program, so the tests
//! find any fault in them.

use std::collections::HashMap;

use typed_toml::fault::{SettingsFault, SettingsFaults};
use typed_toml::section::Section;

use super::super::fold::{fold, spelled_out};
use super::super::pieces::Pieces;
use super::{Condition, Edges, KINDS, Meaning, Near, Word, Words};

/// Lists the languages, each with its file.
macro_rules! languages {
    ($($code:literal),* $(,)?) => {
        /// The languages, each with its word lists.
        pub(in super::super) const LANGUAGES: &[(&str, &str)] = &[
            $(($code, include_str!(concat!("../../languages/", $code, ".toml"))),)*
        ];
    };
}

languages! {
    "en", "de", "fr", "es", "it", "pt", "nl", "pl", "ru", "ja", "zh", "ko", "nb", "sv", "da", "fi",
    "cs", "hu", "ro", "el", "uk", "tr", "vi", "th", "id",
}

/// The words that count in every language.
const INTERNATIONAL: &str = include_str!("../../languages/international.toml");

/// The meanings.
const MEANINGS: &str = include_str!("../../meanings.toml");

/// The largest number of meanings: they are bits.
const MEANINGS_MAX: usize = u32::BITS as usize;

/// Collects the words while the files are read.
#[derive(Default)]
struct Collected {
    /// The number of each word, by its folded text and its edges.
    numbers: HashMap<(String, Edges), usize>,
    words: Vec<(String, Word)>,
}

/// The smallest length of a word, in bytes. Shorter ones are in nearly every text.
const WORD_MIN: usize = 4;

/// The kinds of words for us and our sender. Without one of them in English, a text is about the
/// recipient.
const OURS: [&str; 3] = ["sender", "us", "login"];

/// Returns all languages, and an English text with one of the words for us. Reports all faults at
/// once.
pub(in super::super) fn words() -> Result<(Words, String), SettingsFaults> {
    let mut faults = Vec::new();
    let mut collected = Collected::default();
    read_language(
        "international",
        INTERNATIONAL,
        None,
        &mut collected,
        &mut faults,
    );
    let mut languages = Vec::new();
    for (n, (code, toml)) in LANGUAGES.iter().enumerate() {
        let near = read_language(code, toml, Some(n), &mut collected, &mut faults);
        languages.push(near);
    }
    collected.find_signs();
    let meanings = read_meanings(&mut faults);
    if !faults.is_empty() {
        return Err(SettingsFaults(faults));
    }
    let ours = collected.ours();
    let pieces = collected
        .words
        .iter()
        .map(|(word, _)| word.clone().into_bytes());
    let pieces = Pieces::new(&pieces.collect::<Vec<_>>());
    let words = Words {
        words: collected.words.into_iter().map(|(_, word)| word).collect(),
        pieces,
        languages,
        all_meanings: meanings.iter().fold(0, |bits, _| bits << 1 | 1),
        meanings,
        english: english(),
    };
    Ok((words, ours))
}

/// Returns the number of English.
fn english() -> Option<usize> {
    LANGUAGES.iter().position(|(code, _)| *code == "en")
}

fn table(file: &str, toml: &str, faults: &mut Vec<SettingsFault>) -> toml::Table {
    toml::from_str(toml).unwrap_or_else(|err| {
        faults.push(SettingsFault::syntax(file, toml, &err));
        toml::Table::new()
    })
}

/// Reads one language. Returns the words that are searched only near others.
fn read_language(
    code: &str,
    toml: &str,
    language: Option<usize>,
    collected: &mut Collected,
    faults: &mut Vec<SettingsFault>,
) -> Near {
    let table = table(code, toml, faults);
    let mut section = Section::new(code, "", &table, faults);
    // The examples are for the tests.
    section.table("examples");
    for (n, name) in KINDS.iter().enumerate() {
        for text in section.texts(name) {
            for (word, edges) in spellings(text) {
                if word.len() < WORD_MIN {
                    section.fault(name, format!("\"{word}\" is too short"));
                }
                collected.add(word, edges, language, 1 << n);
            }
        }
    }
    let near = Near {
        not: section
            .texts("not")
            .into_iter()
            .flat_map(spellings)
            .collect(),
        none: section
            .texts("none")
            .into_iter()
            .flat_map(spellings)
            .collect(),
    };
    section.finish();
    near
}

/// Returns how a word of a list may be spelled, folded. A hyphen at an end means that a longer word
/// may go on there.
fn spellings(text: &str) -> Vec<(String, Edges)> {
    let edges = Edges {
        opens: text.starts_with('-'),
        closes: text.ends_with('-'),
    };
    let word = text.trim_matches('-');
    let spelled = spelled_out(word);
    let words = [Some(word), spelled.as_deref()];
    words
        .into_iter()
        .flatten()
        .map(|word| (fold(word), edges))
        .collect()
}

impl Collected {
    fn add(&mut self, word: String, edges: Edges, language: Option<usize>, kind: u64) {
        let next = self.words.len();
        let number = *self.numbers.entry((word.clone(), edges)).or_insert(next);
        if number == next {
            let new = Word {
                length: word.len(),
                edges,
                uses: Vec::new(),
                signs: 0,
                english: 0,
            };
            self.words.push((word, new));
        }
        let known = &mut self.words[number].1;
        known.uses.push((language, kind));
        if language.is_none() || language == english() {
            known.english |= kind;
        }
    }
}

impl Collected {
    /// Finds of which languages each word is a sign. A word that is also the beginning of an
    /// English one is a sign of none.
    fn find_signs(&mut self) {
        let is_english = |(word, known): &&(String, Word)| known.english != 0 && !word.is_empty();
        let english: Vec<String> = self
            .words
            .iter()
            .filter(is_english)
            .map(|(word, _)| word.clone())
            .collect();
        for (word, known) in &mut self.words {
            let is_english = english
                .iter()
                .any(|one| one == word || known.edges.closes && one.starts_with(word.as_str()));
            let languages = known.uses.iter().filter_map(|(language, _)| *language);
            known.signs = match is_english {
                true => 0,
                false => languages.fold(0, |signs, language| signs | 1 << language),
            };
        }
    }

    /// Returns a text for one of the English words of [`OURS`].
    fn ours(&self) -> String {
        let kinds = KINDS.iter().enumerate();
        let ours = kinds
            .filter(|(_, kind)| OURS.contains(kind))
            .fold(0_u64, |ours, (n, _)| ours | 1 << n);
        let words = self
            .words
            .iter()
            .filter(|(_, known)| known.english & ours != 0);
        let words: Vec<_> = words.map(|(word, _)| regex::escape(word)).collect();
        words.join("|")
    }
}

fn read_meanings(faults: &mut Vec<SettingsFault>) -> Vec<Meaning> {
    const FILE: &str = "meanings.toml";
    let table = table(FILE, MEANINGS, faults);
    let mut top = Section::new(FILE, "", &table, faults);
    let tables = top.tables("meaning");
    if tables.len() > MEANINGS_MAX {
        top.fault("meaning", format!("at most {MEANINGS_MAX} are allowed"));
    }
    top.finish();
    let mut meanings = Vec::new();
    for (n, table) in tables.into_iter().enumerate() {
        let mut section = Section::new(FILE, format!("meaning.#{}", n + 1), table, faults);
        let mut when = Vec::new();
        for text in section.texts("when") {
            match condition(text) {
                Ok(condition) => when.push(condition),
                Err(why) => section.fault("when", why),
            }
        }
        let name = section.text("name").unwrap_or_default().to_owned();
        section.finish();
        meanings.push(Meaning { name, when });
    }
    meanings
}

/// Reads `mailbox|user full !sender`.
fn condition(text: &str) -> Result<Condition, String> {
    let kind = |name: &str| {
        let at = KINDS.iter().position(|kind| *kind == name);
        at.map(|at| 1_u64 << at)
            .ok_or_else(|| format!("\"{name}\" is not a kind of words"))
    };
    let mut condition = Condition {
        all: Vec::new(),
        none: 0,
    };
    for part in text.split(' ') {
        match part.strip_prefix('!') {
            Some(name) => condition.none |= kind(name)?,
            None => {
                let kinds = part.split('|').map(kind);
                let mut any = 0;
                for kind in kinds {
                    any |= kind?;
                }
                condition.all.push(any);
            }
        }
    }
    Ok(condition)
}
