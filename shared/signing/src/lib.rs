//! Signatures and secrets: return paths (VERP), signatures of webhooks, and tokens of the API.

pub mod api_token;
pub mod return_path;
pub mod webhook_signature;
