//! The handle that accepts all bounces and facts. Its other methods are in the modules next to this
//! one.

use std::sync::Arc;
use std::time::Duration;

use policy::table::Table;
use store::handle::Store;
use telemetry::spans::Tracing;

use super::missing_content::ContentNeeds;
use crate::intake::signed_account::SignedAccounts;
use crate::placement::Placer;

/// How long a suppression waits for workers to stop sending to the address, by default.
const SUPPRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts bounces and facts: judges them by the policy, and hands them to the store.
#[derive(Clone, Debug)]
pub struct Accept {
    pub(super) store: Store,
    pub(super) table: Arc<Table>,
    pub(super) placer: Placer,
    pub(super) suppress_timeout: Duration,
    pub(super) tracing: Tracing,
    pub(super) source: &'static str,
    pub(super) content_needs: ContentNeeds,
    signed_accounts: SignedAccounts,
}

impl Accept {
    /// Returns a handle for this store and this policy. The placer decides the destination of a
    /// domain.
    pub fn new(store: Store, table: Arc<Table>, placer: Placer) -> Self {
        Self {
            store,
            table,
            placer,
            suppress_timeout: SUPPRESS_TIMEOUT,
            tracing: Tracing::off(),
            source: "api",
            content_needs: ContentNeeds::default(),
            signed_accounts: SignedAccounts::default(),
        }
    }

    /// Returns the same handle, for adapters that use the accounts that return paths of ours carry.
    #[must_use]
    pub fn with_signed_accounts(self, signed_accounts: SignedAccounts) -> Self {
        Self {
            signed_accounts,
            ..self
        }
    }

    /// Returns the same handle, which warns about messages without content on routes that need it.
    #[must_use]
    pub fn with_content_needs(self, content_needs: ContentNeeds) -> Self {
        Self {
            content_needs,
            ..self
        }
    }

    /// Returns the same handle, which records the bounces that it accepts with `tracing`.
    #[must_use]
    pub fn with_tracing(self, tracing: Tracing) -> Self {
        Self { tracing, ..self }
    }

    /// Returns the same handle for bounces that come in another way than over the API. Metrics name
    /// that way.
    #[must_use]
    pub fn with_source(self, source: &'static str) -> Self {
        Self { source, ..self }
    }

    /// Returns the same handle with another limit on how long a suppression waits. A worker may be
    /// sending to an address when it is suppressed, and the suppression waits for it to stop.
    #[must_use]
    pub fn with_suppress_timeout(self, suppress_timeout: Duration) -> Self {
        Self {
            suppress_timeout,
            ..self
        }
    }

    /// Returns the same handle for what a client does with this token. Events name the token.
    #[must_use]
    pub fn on_behalf_of(&self, token: Option<&str>) -> Self {
        Self {
            store: self.store.on_behalf_of(token),
            ..self.clone()
        }
    }

    /// Returns the reader of the accounts that return paths of ours carry.
    pub fn signed_accounts(&self) -> &SignedAccounts {
        &self.signed_accounts
    }

    /// Returns the policy in force.
    pub fn table(&self) -> &Table {
        &self.table
    }
}
