//! Checks the properties of the parsers with nearly correct inputs, and with the seeds of the fuzz
//! targets, unchanged and damaged. Also checks that no parser takes more than linear time.

mod linear;
mod nearly;
mod seeds;
mod words;
