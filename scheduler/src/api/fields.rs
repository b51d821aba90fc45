//! The fields of a small JSON body, read one by one. A wrong field is refused with its name and
//! with what is allowed. `null` counts as absent. A body has the same time limit as any other
//! request, and no repeated keys.

use std::ops::RangeInclusive;

use axum::extract::{FromRequest, Request};
use domain::clock::Timestamp;
use serde_json::{Map, Value};

use super::Api;
use super::items::{DOCUMENT, collect, essence};
use super::problem::Problem;
use crate::intake::json::unique::Parsed;

/// How many characters of an unknown field's name are repeated in the answer.
const NAME_CHARS: usize = 80;

/// A body that is a JSON object.
#[derive(Debug)]
pub struct Object(pub Map<String, Value>);

/// A body that is a JSON object, or the problem with it.
pub type Body = Result<Object, Problem>;

impl FromRequest<Api> for Object {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let content_type = essence(request.headers());
        if content_type != DOCUMENT {
            return Err(other_type(&content_type));
        }
        let bytes = collect(api, request.into_body()).await?;
        Self::read(&bytes)
    }
}

impl Object {
    fn read(bytes: &[u8]) -> Result<Self, Problem> {
        match Parsed::read(bytes).map_err(|refusal| Problem::wrong_body(&refusal))? {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(Problem::bad_request("the body must be a JSON object")),
        }
    }
}

fn other_type(content_type: &str) -> Problem {
    Problem::unsupported(format!(
        "the content type \"{content_type}\" is not supported; send {DOCUMENT}"
    ))
}

/// The fields of a body. It has only fields that are allowed.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body that may have only these fields.
    pub fn read(body: Body, allowed: &[&str]) -> Result<Self, Problem> {
        let Object(mut fields) = body?;
        fields.retain(|_, value| !value.is_null());
        match fields.keys().find(|name| !allowed.contains(&name.as_str())) {
            Some(unknown) => {
                let name: String = unknown.chars().take(NAME_CHARS).collect();
                Err(Problem::bad_field(
                    name,
                    format!("is not a known field; allowed are {}", allowed.join(", ")),
                ))
            }
            None => Ok(Self(fields)),
        }
    }

    /// Reads the body of a request that need not have one. It may have only these fields.
    pub async fn read_optional(
        api: &Api,
        request: Request,
        allowed: &[&str],
    ) -> Result<Self, Problem> {
        let content_type = essence(request.headers());
        let bytes = collect(api, request.into_body()).await?;
        if bytes.is_empty() {
            return Ok(Self(Map::new()));
        }
        if content_type != DOCUMENT {
            return Err(other_type(&content_type));
        }
        Self::read(Object::read(&bytes), allowed)
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns one line of text of at most `chars_max` characters, which must not be blank.
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

    /// Returns a number within `allowed`. It may have a fraction.
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

    /// Returns a whole number within `allowed`.
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

    /// Returns an instant, which must be later than `now`.
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
