//! `POST /v1/facts`: signs of life, complaints and unsubscribes, as one object, an array, or
//! NDJSON.

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use domain::account::Account;
use domain::fact::Fact;
use serde_json::Value;
use store::error::StoreError;

use super::Api;
use super::items::{self, Item};
use super::problem::Problem;
use crate::access::caller::Caller;
use crate::intake::accept::{FactAnswered, StillSentTo};
use crate::intake::facts::read_signed;
use crate::intake::json::Refusal;

/// `POST /v1/facts`.
pub async fn post(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    items::receive::<Fact>(&api, &caller, request).await
}

impl Item for Fact {
    const PLURAL: &'static str = "facts";

    type Answer = FactAnswered;

    fn read(api: &Api, item: Value) -> Result<Self, Refusal> {
        let now = api.store.clock().now();
        read_signed(item, api.accept.signed_accounts(), now)
    }

    fn account(&self) -> &Account {
        &self.account
    }

    async fn process(
        api: &Api,
        caller: &Caller,
        facts: Vec<Self>,
    ) -> Result<(Vec<FactAnswered>, StillSentTo), StoreError> {
        let accept = api.accept.on_behalf_of(caller.token());
        accept.record_facts(facts).await
    }
}
