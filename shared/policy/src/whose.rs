//! Whose mail it is that failed, and where: what a row may be limited to.

/// Whose mail it is that failed, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whose<'a> {
    pub(crate) account: &'a str,
    pub(crate) stream: Option<&'a str>,
    pub(crate) destination: &'a str,
}
