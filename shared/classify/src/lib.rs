//! What the text of a reply tells: why mail failed, when the server wants the next try, and which
//! replies are the same but for names and numbers. What is done about it is for the policy to say.

pub mod fingerprint;
pub mod hint;
pub mod reason;
