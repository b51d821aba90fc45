//! `POST /v1/bounces`: one object, an array, or NDJSON of any length.

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use domain::account::Account;
use domain::bounce::Bounce;
use serde_json::Value;
use store::error::StoreError;

use super::Api;
use super::items::{self, Item};
use super::problem::Problem;
use crate::access::caller::Caller;
use crate::intake::accept::{Answered, StillSentTo};
use crate::intake::json::Refusal;

/// `POST /v1/bounces`.
pub async fn post(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    items::receive::<Bounce>(&api, &caller, request).await
}

impl Item for Bounce {
    const PLURAL: &'static str = "bounces";

    type Answer = Answered;

    fn read(api: &Api, item: Value) -> Result<Self, Refusal> {
        api.reader.read(item, api.store.clock().now())
    }

    fn read_text(api: &Api, text: &[u8]) -> Result<Self, Refusal> {
        api.reader.read_text(text, api.store.clock().now())
    }

    fn account(&self) -> &Account {
        &self.account
    }

    async fn process(
        api: &Api,
        caller: &Caller,
        batch: Vec<Self>,
    ) -> Result<(Vec<Answered>, StillSentTo), StoreError> {
        let accept = api.accept.on_behalf_of(caller.token());
        Ok((accept.accept(batch).await?, StillSentTo::new()))
    }
}
