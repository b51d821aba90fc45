//! What holds of all that comes out of the parsers, whatever goes in. Each module has one function
//! that takes any bytes and panics where something does not hold; the tests here call it with
//! inputs that are nearly right, and the fuzz targets (`fuzz/`) with those that lead where no input
//! led before. So each property is stated once.

pub mod address;
pub mod dsn;
pub mod lmtp;
pub mod ndjson;
pub mod reply;
pub mod webhook;

/// Whether a text can stand in a line of a log, a header or an envelope without becoming two.
fn is_one_line(text: &str) -> bool {
    !text.contains(char::is_control)
}
