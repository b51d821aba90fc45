//! What each mail service implements.

use async_trait::async_trait;
use axum::http::HeaderMap;
use config::hooks::Hook;
use domain::clock::Timestamp;

use super::event::Event;
use super::request::{Denied, Verified, WebhookRequest};

/// A mail service that reports its events by webhook.
#[async_trait]
pub(super) trait MailService: Send + Sync {
    /// Verifies that the service sent this request. Signatures must also be recent.
    async fn verify(
        &self,
        hook: &Hook,
        request: &WebhookRequest<'_>,
        now: Timestamp,
    ) -> Result<Verified, Denied>;

    /// Reads the events of a verified body. A body may contain one or many.
    ///
    /// # Errors
    /// If the body is not in a form that the service sends. The text explains why.
    fn read(&self, hook: &Hook, headers: &HeaderMap, body: &[u8]) -> Result<Vec<Event>, String>;
}
