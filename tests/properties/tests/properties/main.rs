//! The properties of the parsers, with inputs that are nearly right, with the seeds of the fuzz
//! targets and what damage makes of them; and that none takes more than linear time.

mod linear;
mod nearly;
mod seeds;
mod words;
