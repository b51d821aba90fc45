//! The table of all mail services. The shared files reach a service only through it.

use std::sync::Arc;

use config::hooks::Service;

use super::fetch::Fetch;
use super::kumomta::KumoMta;
use super::mail_service::MailService;
use super::mailgun::Mailgun;
use super::postmark::Postmark;
use super::sendgrid::SendGrid;
use super::ses::Ses;
use super::sparkpost::SparkPost;

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
