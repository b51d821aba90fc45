//! Words with colours, and lines that are filled with them.

use std::fmt;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use domain::transcript::{Phase, Transcript};

use crate::figures::took;

/// How wide the bar of an attempt's phases is.
const BAR: usize = 12;

/// A text that stays on one line, in one style. Control characters are replaced, because replies
/// come from foreign servers and could control the terminal.
#[derive(Clone, Debug)]
pub(super) struct Word {
    text: String,
    style: Style,
    /// In columns.
    width: usize,
    /// Whether only one space precedes it.
    is_close: bool,
}

impl Word {
    pub(super) fn new(text: impl Into<String>, style: Style) -> Self {
        let mut text: String = text.into();
        if text.contains(char::is_control) {
            text = text.replace(char::is_control, " ");
        }
        Self {
            width: text.chars().count(),
            text,
            style,
            is_close: false,
        }
    }

    /// Returns the words of a sentence.
    pub(super) fn sentence(text: &str, style: Style) -> Vec<Self> {
        text.split(' ')
            .filter(|word| !word.is_empty())
            .map(|word| Self {
                is_close: true,
                ..Self::new(word, style)
            })
            .collect()
    }

    /// Returns how many spaces precede the word.
    fn space(&self, is_first: bool) -> usize {
        match (is_first, self.is_close) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        }
    }

    /// Returns the parts of a text of which none is wider than `width` columns: the text itself if
    /// it fits, or else its words. A word that is wider is cut into several.
    pub(super) fn parts(self, width: usize) -> Vec<Self> {
        if self.width <= width {
            return vec![self];
        }
        let words = Self::sentence(&self.text, self.style).into_iter();
        let pieces = words.flat_map(|word| {
            let letters: Vec<char> = word.text.chars().collect();
            let pieces = letters.chunks(width.max(1)).map(|piece| Self {
                is_close: true,
                ..Self::new(String::from_iter(piece), word.style)
            });
            pieces.collect::<Vec<Self>>()
        });
        pieces.collect()
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, style, .. } = self;
        write!(f, "{style}{text}{style:#}")
    }
}

/// Takes as many words from the front as fit on a line of `width` columns.
pub(super) fn take_line(words: &mut Vec<Word>, width: usize) -> String {
    let mut used = 0;
    let mut count = 0;
    for word in words.iter() {
        used += word.space(count == 0) + word.width;
        if used > width {
            break;
        }
        count += 1;
    }
    let mut line = String::new();
    for (n, word) in words.drain(..count).enumerate() {
        line.push_str(&" ".repeat(word.space(n == 0)));
        line.push_str(&word.to_string());
    }
    line
}

/// Fills lines of at most `width` columns with words. A longer word has a line of its own.
pub(super) fn fill(mut words: Vec<Word>, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    while !words.is_empty() {
        let line = take_line(&mut words, width);
        lines.push(if line.is_empty() {
            words.remove(0).to_string()
        } else {
            line
        });
    }
    lines
}

/// Returns how long an attempt talked to a mail host, and to which one.
pub(super) fn conversation(transcript: &Transcript) -> Vec<Word> {
    let Transcript {
        phase,
        host,
        tls,
        reused,
        took_ms,
        ..
    } = transcript;
    let mut words = Vec::new();
    if !took_ms.is_empty() {
        let span = took(Duration::from_millis(transcript.whole_ms()));
        words.push(Word::new(span, Style::new().bold()));
    }
    let mut place = Vec::new();
    // The list of phases does not show a last phase that took less than a millisecond.
    if !took_ms.iter().any(|(known, ms)| known == phase && *ms > 0) {
        place.push(format!("up to {phase}"));
    }
    if !host.is_empty() {
        place.push(format!("at {host}"));
    }
    place.extend(tls.clone());
    if *reused {
        place.push("(reused)".to_owned());
    }
    if !place.is_empty() {
        words.push(Word::new(place.join(" "), Style::new().dimmed()));
    }
    words
}

/// Returns lines with a bar of the phases of an attempt, and how long each took. Phases that took
/// less than a millisecond are left out. The others have a cell at least, so short ones look longer
/// than they are.
pub(super) fn phases(transcript: &Transcript, width: usize) -> Vec<String> {
    let mut spans = transcript.sums();
    spans.retain(|(_, ms)| *ms > 0);
    if spans.is_empty() {
        return Vec::new();
    }
    let whole = spans.iter().map(|(_, ms)| *ms as f64).sum::<f64>();
    let room = BAR.saturating_sub(spans.len()) as f64;
    let mut bar = String::new();
    let (mut sum, mut drawn) = (0.0, 0);
    for (n, (phase, ms)) in spans.iter().enumerate() {
        sum += *ms as f64;
        let end = n + 1 + (sum / whole * room).round() as usize;
        let (shade, style) = look(*phase);
        let cells: String = (drawn..end).map(|_| shade).collect();
        bar.push_str(&format!("{style}{cells}{style:#}"));
        drawn = end;
    }
    let words = spans.iter().map(|(phase, ms)| {
        let (shade, style) = look(*phase);
        let span = took(Duration::from_millis(*ms));
        Word::new(format!("{shade} {phase} {span}"), style)
    });
    let indent = drawn + 2;
    let lines = fill(words.collect(), width.saturating_sub(indent));
    let lines = lines.iter().enumerate().map(|(n, line)| match n {
        0 => format!("{bar}  {line}"),
        _ => format!("{:indent$}{line}", ""),
    });
    lines.collect()
}

/// Returns how a phase is drawn. Phases that follow each other differ without colours too.
fn look(phase: Phase) -> (char, Style) {
    let (shade, color) = match phase {
        Phase::Lookup => ('▄', AnsiColor::Blue),
        Phase::Wait => ('·', AnsiColor::White),
        Phase::Connect => ('░', AnsiColor::Cyan),
        Phase::Greeting => ('▒', AnsiColor::Blue),
        Phase::Hello => ('▓', AnsiColor::Cyan),
        Phase::Tls => ('▀', AnsiColor::Magenta),
        Phase::Auth => ('░', AnsiColor::Magenta),
        Phase::Mail => ('▄', AnsiColor::Green),
        Phase::Rcpt => ('█', AnsiColor::Yellow),
        Phase::Data => ('▒', AnsiColor::Green),
        Phase::Dot => ('▓', AnsiColor::Red),
    };
    (shade, color.on_default())
}
