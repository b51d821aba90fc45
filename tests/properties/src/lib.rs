//! Properties of everything that the parsers return, for any input. Each module has one
//! function that takes any bytes and panics if a property does not hold. The tests here call it
//! with nearly correct inputs. The fuzz targets (`fuzz/`) call it with inputs that reach new code.
//! So each property is written once.

pub mod address;
pub mod dsn;
pub mod lmtp;
pub mod ndjson;
pub mod reply;
pub mod webhook;

/// Whether a text can be part of a line in a log, a header or an envelope without becoming two
/// lines.
fn is_one_line(text: &str) -> bool {
    !text.contains(char::is_control)
}
