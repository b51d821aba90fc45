//! The arguments and the request of commands that print one page of a list of the API.

use anyhow::Result;
use clap::Args;
use reqwest::Method;
use serde_json::Value;

use crate::api::{Api, Call};
use crate::process;

#[derive(Debug, Args)]
pub(crate) struct Page {
    /// The most entries to list
    #[arg(long, default_value_t = 100)]
    limit: usize,

    /// Continue an earlier list; use the value that was printed at its end
    #[arg(long, value_name = "PLACE")]
    after: Option<String>,

    #[command(flatten)]
    api: Api,
}

impl Page {
    /// Requests a page of the list with this name, and prints it.
    pub(crate) async fn print(
        &self,
        list: &str,
        describe: impl FnOnce(&Value) -> String,
    ) -> Result<()> {
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(self.after.clone().map(|after| ("after", after)));
        let call = Call {
            method: Method::GET,
            path: &[list],
            query: &query,
            body: None,
        };
        let answer = self.api.call(call).await?;
        process::print(&if self.api.json {
            format!("{answer}\n")
        } else {
            describe(&answer)
        })
    }
}
