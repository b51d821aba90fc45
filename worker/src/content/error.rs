//! Why content could not be had.

use std::fmt::Display;
use std::io;

use domain::outcome::{Fault, FaultKind, Side};
use system::whose_fault::{Cause, file_error};

/// Why content could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ContentError {
    /// It is not there, lies elsewhere, or is no mail: the message cannot be sent, now or later.
    #[error("{0}")]
    Missing(&'static str),
    /// Reading it failed, and that is our own fault: it may succeed later.
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

    /// One that an error led to, of which this much is known.
    pub(super) fn by(cause: Cause, err: &dyn Display) -> Self {
        Self::Unread(cause.fault(FaultKind::Local, &format!("content not read: {err}")))
    }
}

/// A name that stands for no file stays one; whatever else keeps a file from being read may pass.
pub(super) fn sort(err: &io::Error) -> ContentError {
    let cause = file_error(err);
    match cause.side {
        Side::Theirs => ContentError::Missing("the content's file is not there"),
        Side::Ours => ContentError::by(cause, err),
    }
}
