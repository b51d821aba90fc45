//! The fields of a small JSON body, read one by one, so that a wrong one is refused by name and
//! with what is allowed. A `null` counts as absent. A body takes no longer than any other that
//! comes in, and has each key once.

use std::ops::RangeInclusive;

use axum::extract::{FromRequest, Request};
use domain::clock::Timestamp;
use serde_json::{Map, Value};

use super::Api;
use super::items::{DOCUMENT, collect, essence};
use super::problem::Problem;
use crate::intake::json::unique::Parsed;

/// How much of an unknown field's name is given back, in characters.
const NAME_CHARS: usize = 80;

/// A body that is a JSON object.
#[derive(Debug)]
pub struct Object(pub Map<String, Value>);

/// A body that is a JSON object, or what is wrong with it.
pub type Body = Result<Object, Problem>;

impl FromRequest<Api> for Object {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let content_type = essence(request.headers());
        if content_type != DOCUMENT {
            return Err(Problem::unsupported(format!(
                "content type \"{content_type}\"; send {DOCUMENT}"
            )));
        }
        let bytes = collect(api, request.into_body()).await?;
        match Parsed::read(&bytes).map_err(|refusal| Problem::wrong_body(&refusal))? {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(Problem::bad_request("the body is no JSON object")),
        }
    }
}

/// The fields of a body, none of which is unknown.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body that may have these fields and no other.
    pub fn read(body: Body, allowed: &[&str]) -> Result<Self, Problem> {
        let Object(mut fields) = body?;
        fields.retain(|_, value| !value.is_null());
        match fields.keys().find(|name| !allowed.contains(&name.as_str())) {
            Some(unknown) => {
                let name: String = unknown.chars().take(NAME_CHARS).collect();
                Err(Problem::bad_field(
                    name,
                    format!("there is no such field; allowed are {}", allowed.join(", ")),
                ))
            }
            None => Ok(Self(fields)),
        }
    }

    /// Whether no field is there.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One line of text that is not blank, of at most so many characters.
    pub fn line(&self, name: &'static str, chars_max: usize) -> Result<Option<String>, Problem> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let fits = |text: &&str| {
            !text.trim().is_empty()
                && text.chars().count() <= chars_max
                && !text.contains(char::is_control)
        };
        let text = value.as_str().filter(fits).ok_or_else(|| {
            Problem::bad_field(
                name,
                format!("must be text on one line, of 1 to {chars_max} characters"),
            )
        })?;
        Ok(Some(text.to_owned()))
    }

    /// A number within `allowed` that need not be whole.
    pub fn number(
        &self,
        name: &'static str,
        allowed: RangeInclusive<f64>,
    ) -> Result<Option<f64>, Problem> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let number = value
            .as_f64()
            .filter(|number| allowed.contains(number))
            .ok_or_else(|| {
                let (least, most) = (allowed.start(), allowed.end());
                Problem::bad_field(name, format!("must be a number from {least} to {most}"))
            })?;
        Ok(Some(number))
    }

    /// A whole number within `allowed`.
    pub fn whole(
        &self,
        name: &'static str,
        allowed: RangeInclusive<u32>,
    ) -> Result<Option<u32>, Problem> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number
            .filter(|number| allowed.contains(number))
            .ok_or_else(|| {
                let (least, most) = (allowed.start(), allowed.end());
                Problem::bad_field(
                    name,
                    format!("must be a whole number from {least} to {most}"),
                )
            })?;
        Ok(Some(number))
    }

    /// An instant later than `now`.
    pub fn instant_after(
        &self,
        name: &'static str,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Problem> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let instant = value
            .as_str()
            .and_then(Timestamp::parse)
            .filter(|instant| *instant > now)
            .ok_or_else(|| {
                Problem::bad_field(
                    name,
                    format!("must be an RFC 3339 instant in the future; it is {now} now"),
                )
            })?;
        Ok(Some(instant))
    }
}
