//! Integration tests: one binary, one module per subject.

#[cfg(test)]
mod evidence;
#[cfg(test)]
mod vectors;
