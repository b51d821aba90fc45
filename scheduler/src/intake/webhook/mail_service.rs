//! What each mail service implements, and the table of all mail services. The other shared files
//! reach a service only through this table.

use std::sync::Arc;

use async_trait::async_trait;
use axum::http::HeaderMap;
use config::hooks::{Hook, Service};
use domain::clock::Timestamp;

use super::event::Event;
use super::fetch::Fetch;
use super::kumomta::KumoMta;
use super::mailgun::Mailgun;
use super::postmark::Postmark;
use super::request::{Denied, Verified, WebhookRequest};
use super::sendgrid::SendGrid;
use super::ses::Ses;
use super::sparkpost::SparkPost;

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

/// All mail services.
#[derive(Debug)]
pub(super) struct MailServices {
    ses: Ses,
}

impl MailServices {
    /// All mail services. Requests to SNS go through `fetch`.
    pub(super) fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self {
            ses: Ses::new(fetch),
        }
    }

    /// Returns the implementation of a service.
    pub(super) fn get(&self, service: Service) -> &dyn MailService {
        match service {
            Service::Ses => &self.ses,
            Service::SendGrid => &SendGrid,
            Service::Mailgun => &Mailgun,
            Service::Postmark => &Postmark,
            Service::SparkPost => &SparkPost,
            Service::KumoMta => &KumoMta,
        }
    }
}
