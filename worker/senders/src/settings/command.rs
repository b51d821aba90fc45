//! The settings of a route whose sender is `command`: a program that sends.

use std::path::PathBuf;
use std::time::Duration;

use typed_toml::section::Section;
use typed_toml::set::{SECOND, set};

/// The placeholders for the envelope in a command's arguments.
pub const PLACEHOLDERS: [&str; 3] = ["{sender}", "{recipient}", "{message_id}"];

/// The settings of a program that sends.
#[derive(Clone, Debug)]
pub struct CommandSettings {
    /// The path of the program.
    pub program: PathBuf,
    /// Whether the lines that the program gets end with CRLF, as in transmitted mail. Otherwise
    /// they end with LF, as programs of Unix expect.
    pub crlf: bool,
    /// Its arguments, which may contain [`PLACEHOLDERS`].
    pub arguments: Vec<String>,
    /// Its `PATH`, the only environment variable that it gets.
    pub path: String,
    /// How long it may run.
    pub timeout: Duration,
    /// How many bytes of its output are kept at most.
    pub output_max: usize,
}

pub(super) fn read_command(section: &mut Section<'_, '_>) -> Option<CommandSettings> {
    let program = section.text("program").map(PathBuf::from);
    match &program {
        None => section.fault(
            "program",
            "a command route needs the program that sends, for example \"/usr/sbin/sendmail\"",
        ),
        Some(path) if !path.is_absolute() => section.fault("program", "must be an absolute path"),
        Some(_) => {}
    }
    let arguments: Vec<String> = section
        .texts("arguments")
        .into_iter()
        .map(str::to_owned)
        .collect();
    if section.text("path").is_some_and(|path| path.contains('\0')) {
        section.fault("path", "must not contain a null character");
    }
    for argument in &arguments {
        if let Err(unknown) = check_placeholders(argument) {
            let known = PLACEHOLDERS.join(", ");
            section.fault(
                "arguments",
                format!("{unknown} is not a placeholder; the placeholders are {known}"),
            );
        }
        if argument.contains('\0') {
            section.fault("arguments", "an argument must not contain a null character");
        }
    }
    if !arguments
        .iter()
        .any(|argument| argument.contains("{recipient}"))
    {
        section.fault(
            "arguments",
            "must contain {recipient}: the program gets the envelope from its arguments and the \
             content on its standard input, as with \
             [\"-i\", \"-f\", \"{sender}\", \"--\", \"{recipient}\"]",
        );
    }
    let crlf = section
        .choice("line_ends", &[("lf", false), ("crlf", true)])
        .unwrap_or(false);
    let path = section
        .text("path")
        .unwrap_or("/usr/local/bin:/usr/bin:/bin")
        .to_owned();
    let (mut timeout, mut output_max) = (60 * SECOND, 16 << 10);
    set(
        &mut timeout,
        section.duration("timeout", SECOND / 10..=3_600 * SECOND),
    );
    set(&mut output_max, section.size("output_max", 256..=16 << 20));
    Some(CommandSettings {
        program: program?,
        crlf,
        arguments,
        path,
        timeout,
        output_max,
    })
}

/// Checks that only placeholders are in braces. `Err` contains the first text in braces that is not
/// a placeholder.
pub(super) fn check_placeholders(argument: &str) -> Result<(), &str> {
    let mut rest = argument;
    while let Some(start) = rest.find('{') {
        let end = rest[start..]
            .find('}')
            .map_or(rest.len(), |length| start + length + 1);
        if !PLACEHOLDERS.contains(&&rest[start..end]) {
            return Err(&rest[start..end]);
        }
        rest = &rest[end..];
    }
    Ok(())
}
