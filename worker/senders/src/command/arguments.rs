//! The arguments of a command, with the placeholders replaced by the envelope.

use domain::reply::Reply;

use crate::attempt::Attempt;

/// How the null reverse-path is written as an argument (RFC 5321, section 4.1.2).
const NULL_PATH: &str = "<>";

/// Returns the arguments for this attempt. If the program would read an address or id as an option,
/// or if an id contains a null character, `Err` contains the reply with which the message is
/// refused.
///
/// An address may begin with a hyphen (RFC 5322, section 3.2.3), as options do. After `--` no
/// argument is read as an option.
pub(super) fn fill(arguments: &[String], attempt: &Attempt) -> Result<Vec<String>, Reply> {
    let sender = attempt
        .envelope_from
        .as_ref()
        .map_or(NULL_PATH, |from| from.as_str());
    let values = [
        ("{sender}", sender),
        ("{recipient}", attempt.recipient.as_str()),
        ("{message_id}", &attempt.message_id),
    ];
    let mut options_may_follow = true;
    let mut filled = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let value = replace(argument, &values);
        if options_may_follow && value.starts_with('-') && !argument.starts_with('-') {
            return Err(Reply::parse(
                "553 5.5.4 an address or id that begins with a hyphen would be read as an option",
            ));
        }
        if value.contains('\0') {
            return Err(Reply::parse(
                "553 5.5.4 an id with a null character cannot be an argument",
            ));
        }
        options_may_follow &= argument != "--";
        filled.push(value);
    }
    Ok(filled)
}

/// Replaces the placeholders in one pass. So a placeholder inside a value is not replaced.
fn replace(argument: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(argument.len());
    let mut rest = argument;
    while let Some(start) = rest.find('{') {
        let (before, placeholder) = rest.split_at(start);
        text.push_str(before);
        match values
            .iter()
            .find_map(|(name, value)| Some((placeholder.strip_prefix(name)?, value)))
        {
            Some((after, value)) => {
                text.push_str(value);
                rest = after;
            }
            None => {
                text.push('{');
                rest = &placeholder[1..];
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use domain::address::Address;

    use super::*;

    fn filled(arguments: &[&str], from: &str, to: &str) -> Result<Vec<String>, String> {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect();
        let mut attempt = Attempt::first(Address::parse(to).unwrap(), "m {recipient}");
        attempt.envelope_from = Address::parse(from).ok();
        fill(&arguments, &attempt).map_err(|reply| reply.to_string())
    }

    #[test]
    fn each_placeholder_is_replaced_once() {
        let arguments = [
            "-i",
            "-f",
            "{sender}",
            "-V{message_id}",
            "--",
            "{recipient}",
        ];
        let expected = ["-i", "-f", "<>", "-Vm {recipient}", "--", "jo@example.com"];
        assert_eq!(filled(&arguments, "", "jo@example.com").unwrap(), expected);
    }

    #[test]
    fn no_address_becomes_an_option() {
        assert_eq!(
            filled(&["--", "{recipient}"], "", "-oQ/tmp@example.com").unwrap()[1],
            "-oQ/tmp@example.com"
        );
        assert_eq!(
            filled(
                &["-f{sender}", "--", "x{recipient}"],
                "-a@b.example",
                "-c@d.example"
            )
            .unwrap()
            .len(),
            3
        );
        for (arguments, from, to) in [
            (vec!["{recipient}"], "", "-oQ/tmp@example.com"),
            (
                vec!["-f", "{sender}", "--", "{recipient}"],
                "-x@example.com",
                "jo@example.com",
            ),
        ] {
            assert!(
                filled(&arguments, from, to)
                    .unwrap_err()
                    .starts_with("553 5.5.4"),
                "{arguments:?}"
            );
        }
    }
}
