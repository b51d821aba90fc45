//! `POST /v1/facts`: signs of life, complaints and unsubscribes, as one object, an array, or
//! NDJSON.

use axum::extract::{Request, State};
use axum::response::Response;
use domain::fact::Fact;
use serde_json::Value;
use store::error::StoreError;

use super::Api;
use super::items::{self, Item};
use super::problem::Problem;
use crate::intake::accept::{FactAnswered, StillSentTo};
use crate::intake::facts::read;
use crate::intake::json::Refusal;

/// `POST /v1/facts`.
pub async fn post(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    items::receive::<Fact>(&api, request).await
}

impl Item for Fact {
    const PLURAL: &'static str = "facts";

    type Answer = FactAnswered;

    fn read(_: &Api, item: Value) -> Result<Self, Refusal> {
        read(item)
    }

    async fn process(
        api: &Api,
        facts: Vec<Self>,
    ) -> Result<(Vec<FactAnswered>, StillSentTo), StoreError> {
        api.accept.record_facts(facts).await
    }
}
