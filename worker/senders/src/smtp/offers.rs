//! What a server offers in its answer to EHLO (RFC 5321, section 4.1.1.1).

use smtp_proto::{
    AUTH_LOGIN, AUTH_PLAIN, EXT_8BIT_MIME, EXT_DSN, EXT_PIPELINING, EXT_SIZE, EXT_SMTP_UTF8,
    EXT_START_TLS, EhloResponse,
};

use super::wire::RawReply;

/// The extensions that a server offers; none if it only supports HELO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offers {
    extensions: u32,
    auth: u64,
    /// The largest message that it accepts, in bytes; 0 if it gives no limit (RFC 1870, section 4).
    pub(crate) size_max: usize,
}

impl Offers {
    /// Reads the extensions from a reply to EHLO. Each line is parsed by itself, so that one
    /// malformed keyword does not hide the others.
    pub(crate) fn read(reply: &RawReply) -> Self {
        let mut offers = Self::default();
        for line in reply.later_lines() {
            let line = format!("250-host\r\n250 {line}\r\n");
            let Ok(response) = EhloResponse::parse(&mut line.as_bytes().iter()) else {
                continue;
            };
            offers.extensions |= response.capabilities;
            offers.auth |= response.auth_mechanisms;
            offers.size_max = offers.size_max.max(response.size);
        }
        offers
    }

    pub(crate) fn pipelining(&self) -> bool {
        self.has(EXT_PIPELINING)
    }

    pub(crate) fn starttls(&self) -> bool {
        self.has(EXT_START_TLS)
    }

    pub(crate) fn size(&self) -> bool {
        self.has(EXT_SIZE)
    }

    pub(crate) fn eight_bit(&self) -> bool {
        self.has(EXT_8BIT_MIME)
    }

    pub(crate) fn utf8(&self) -> bool {
        self.has(EXT_SMTP_UTF8)
    }

    pub(crate) fn dsn(&self) -> bool {
        self.has(EXT_DSN)
    }

    pub(crate) fn auth_plain(&self) -> bool {
        self.auth & AUTH_PLAIN != 0
    }

    pub(crate) fn auth_login(&self) -> bool {
        self.auth & AUTH_LOGIN != 0
    }

    fn has(&self, extension: u32) -> bool {
        self.extensions & extension != 0
    }

    /// Returns the offers of a server with exactly these extensions.
    #[cfg(test)]
    pub(crate) fn of(extensions: u32, size_max: usize) -> Self {
        Self {
            extensions,
            auth: 0,
            size_max,
        }
    }
}
