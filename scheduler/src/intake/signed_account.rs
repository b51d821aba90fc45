//! The account of a bounce or fact whose envelope sender is a return path that we signed. The mail
//! was sent for that account, whatever the reporter knows about it. Mail systems and their logs
//! know none.

use std::mem;
use std::sync::Arc;

use config::model::Config;
use domain::account::Account;
use domain::address::Address;
use domain::bounce::{Bounce, Warning};
use domain::clock::Timestamp;
use signing::return_path::Verp;

/// Reads the accounts that our signed return paths carry. Without a key it reads none.
#[derive(Clone, Debug, Default)]
pub struct SignedAccounts(Option<Arc<Verp>>);

impl SignedAccounts {
    /// Reads the return paths of this configuration.
    pub fn from_config(config: &Config) -> Self {
        Self(config.verp.verp().map(Arc::new))
    }

    /// Gives a bounce the account of its envelope sender, if that is a return path that we signed
    /// for this recipient. If the bounce names another account, it gets a warning.
    pub fn apply(&self, bounce: &mut Bounce, now: Timestamp) {
        let sender = bounce.message.envelope_from.as_ref();
        let warning = self.replace(&mut bounce.account, sender, &bounce.recipient, now);
        bounce.warnings.extend(warning);
    }

    /// Replaces an account by the one that an envelope sender carries, if that is a return path
    /// that we signed for this recipient. Returns a warning if another account was named.
    pub(super) fn replace(
        &self,
        account: &mut Account,
        sender: Option<&Address>,
        recipient: &Address,
        now: Timestamp,
    ) -> Option<Warning> {
        let token = self.0.as_ref()?.decode(sender?.as_str(), now)?;
        if !token.is_for(recipient) || token.account == *account {
            return None;
        }
        let named = mem::replace(account, token.account);
        (named != Account::default()).then(|| Warning {
            field: "account".to_owned(),
            reason: "the envelope sender is a return path that was signed here for another \
                     account, which counts"
                .to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use domain::job::JobId;
    use serde_json::json;

    use super::*;
    use crate::intake::json::read;

    const NOW: Timestamp = Timestamp::from_ms(1_763_716_200_000);

    #[test]
    fn a_signed_return_path_decides_the_account_of_its_own_recipient() {
        let day = Duration::from_secs(86_400);
        let verp = Verp::new("bounce.example.org", b"0123456789abcdef", day);
        let foreign = Verp::new("bounce.example.org", b"another key of 16", day);
        let job = JobId {
            account: Account::parse("acme").unwrap(),
            recipient: Address::parse("jo@example.com").unwrap(),
        };
        let path = |verp: &Verp| verp.encode(&job, "m1", NOW).unwrap();
        let own = path(&verp);
        let signed = SignedAccounts(Some(Arc::new(verp)));
        let late = Timestamp::from_ms(NOW.ms() + 3 * 86_400_000);
        for (sender, recipient, account, now, expected, warned) in [
            (own.clone(), "jo@example.com", None, NOW, "acme", false),
            (
                own.clone(),
                "jo@example.com",
                Some("acme"),
                NOW,
                "acme",
                false,
            ),
            (
                own.clone(),
                "jo@example.com",
                Some("beta"),
                NOW,
                "acme",
                true,
            ),
            (own.clone(), "sam@example.com", None, NOW, "default", false),
            (own, "jo@example.com", None, late, "default", false),
            (
                path(&foreign),
                "jo@example.com",
                None,
                NOW,
                "default",
                false,
            ),
        ] {
            let item = json!({
                "recipient": recipient, "reply": "452 4.2.2 full", "account": account,
                "envelope_from": sender.as_str(),
            });
            let mut bounce = read(item, NOW, 0).unwrap();
            signed.apply(&mut bounce, now);
            assert_eq!(bounce.account.as_str(), expected, "{recipient} {account:?}");
            assert_eq!(
                !bounce.warnings.is_empty(),
                warned,
                "{recipient} {account:?}"
            );
        }
    }
}
