//! Reading facts: built-in collectors and programs that print JSON. Facts only; verdicts are made in `domain`.

pub mod linux;
mod run;

pub use run::{Before, Context, observe};
