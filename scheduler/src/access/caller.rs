//! Who sends a request, and for which accounts. Handlers get it as an extension of the request.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use domain::account::{Account, Accounts};
use domain::clock::{Clock, Timestamp};
use tokio::time::sleep;

use super::bearer::Bearer;
use crate::api::problem::Problem;
use crate::intake::json::Refusal;

/// The `WWW-Authenticate` header of the answer to an unknown or expired token (RFC 6750, section
/// 3).
pub(super) const CHALLENGE_WRONG: &str = "Bearer realm=\"redeliver\", error=\"invalid_token\"";

/// The name of a client without a token.
const ANONYMOUS: &str = "anonymous";

/// How often it is checked whether the token of a long request still works.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest real time between two checks, if the clock runs fast.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Who sends a request: the bearer of a token, or a client without one, which may act for all
/// accounts.
#[derive(Clone, Debug, Default)]
pub struct Caller(pub(super) Option<Arc<Bearer>>);

impl Caller {
    /// Returns the name of the caller's token, or `anonymous`.
    pub fn name(&self) -> &str {
        self.token().unwrap_or(ANONYMOUS)
    }

    /// Returns the name of the caller's token, if it has one.
    pub fn token(&self) -> Option<&str> {
        self.0.as_ref().map(|bearer| bearer.grant.name.as_str())
    }

    /// Returns the accounts that the caller may act for.
    pub fn accounts(&self) -> &Accounts {
        const ALL: &Accounts = &Accounts::All;
        self.0.as_ref().map_or(ALL, |bearer| &bearer.grant.accounts)
    }

    /// Checks whether the caller may act for this account.
    ///
    /// # Errors
    /// 403 if it may not. The text names the accounts that it may act for.
    pub fn check_account(&self, account: &Account) -> Result<(), Problem> {
        let accounts = self.accounts();
        if accounts.allow(account) {
            return Ok(());
        }
        Err(Problem::wrong_account(&Refusal::of_account(
            account, accounts,
        )))
    }

    /// Checks whether the caller's token still works, which may have changed during the request.
    ///
    /// # Errors
    /// 401 if it has expired, or was removed.
    pub fn check_still_valid(&self, now: Timestamp) -> Result<(), Problem> {
        match &self.0 {
            Some(bearer) if !bearer.is_valid(now) => Err(Problem::unauthorized(
                "the token has expired or was removed during the request",
                CHALLENGE_WRONG,
            )),
            _ => Ok(()),
        }
    }

    /// Waits until the caller's token does not work any more. Takes a second at most to notice.
    pub async fn ended(&self, clock: &dyn Clock) {
        let Some(bearer) = &self.0 else {
            return pending().await;
        };
        while bearer.is_valid(clock.now()) {
            sleep(clock.real_duration(CHECK_INTERVAL).max(CHECK_INTERVAL_MIN)).await;
        }
    }
}
