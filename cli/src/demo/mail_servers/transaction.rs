//! One SMTP mail transaction (RFC 5321), and the syntax of `MAIL` and `RCPT`.

/// The biggest message that a server accepts, in octets.
pub(super) const MESSAGE_MAX: usize = 1 << 20;

/// A mail transaction, from `MAIL` to the end of its data.
#[derive(Default)]
pub(super) struct Transaction {
    pub(super) smtputf8: bool,
    pub(super) recipients: Vec<String>,
    /// The message so far. `None` before `DATA`.
    pub(super) content: Option<Vec<u8>>,
    /// If the message must be refused: the reply that is sent at its end.
    pub(super) fault: Option<&'static str>,
}

/// Returns a new transaction, from the argument of `MAIL`.
///
/// # Errors
/// The reply that refuses the command.
pub(super) fn open(argument: &str) -> Result<Transaction, &'static str> {
    let (sender, parameters) =
        path(argument, "FROM:").ok_or("501 5.5.4 Syntax: MAIL FROM:<address>")?;
    let mut transaction = Transaction::default();
    for parameter in parameters.to_ascii_uppercase().split_whitespace() {
        match parameter.split_once('=') {
            None if parameter == "SMTPUTF8" => transaction.smtputf8 = true,
            Some(("BODY", "7BIT" | "8BITMIME")) => {}
            Some(("SIZE", octets)) => match octets.parse::<usize>() {
                Ok(octets) if octets <= MESSAGE_MAX => {}
                Ok(_) => return Err("552 5.3.4 Message too big"),
                Err(_) => return Err("501 5.5.4 SIZE is a number of octets"),
            },
            _ => return Err("555 5.5.4 Parameter not recognized"),
        }
    }
    if !sender.is_ascii() && !transaction.smtputf8 {
        return Err("553 5.6.7 Such a sender needs SMTPUTF8");
    }
    Ok(transaction)
}

/// Splits `TO:<address> parameters` into the address and the parameters. The address ends at the
/// last `>`, because a quoted local part may contain a `>`, but the supported parameters may not.
pub(super) fn path<'a>(argument: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    let path = rest
        .trim_start()
        .strip_prefix('<')
        .filter(|_| head.eq_ignore_ascii_case(keyword))?;
    path.rsplit_once('>')
}
