//! The settings of each sender, and how they are read from a `[[route]]`.

pub mod command;
pub mod http;
pub mod mx;
pub mod route;
pub mod session;
pub mod smtp;

#[cfg(test)]
mod tests;
