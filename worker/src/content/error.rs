//! The error of reading content.

use std::fmt::Display;
use std::io;

use domain::outcome::{Fault, FaultKind, Side};
use system::whose_fault::{Cause, file_error};

/// Why content cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ContentError {
    /// It does not exist, is in a place that is not allowed, or is not valid mail. The message can
    /// never be sent.
    #[error("{0}")]
    Missing(&'static str),
    /// Reading it failed on our side. It may succeed later.
    #[error("{0}")]
    Unread(Fault),
}

impl ContentError {
    pub(super) fn unread(why: &str) -> Self {
        Self::Unread(Fault::ours(
            FaultKind::Local,
            format!("content not read: {why}"),
        ))
    }

    /// Returns the error for content that could not be read because of `err`, with its cause.
    pub(super) fn caused_by(cause: Cause, err: &dyn Display) -> Self {
        Self::Unread(cause.fault(FaultKind::Local, &format!("content not read: {err}")))
    }
}

/// Returns the error for a failed file operation. A file that does not exist is missing for good.
/// All other failures may be temporary.
pub(super) fn classify_error(err: &io::Error) -> ContentError {
    let cause = file_error(err);
    match cause.side {
        Side::Theirs => ContentError::Missing("the content's file does not exist"),
        Side::Ours => ContentError::caused_by(cause, err),
    }
}
