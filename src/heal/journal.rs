//! What an execution writes down before and after each act, so that a crash leaves a question with an answer.

use serde::{Deserialize, Serialize};

use crate::domain::plan::Applied;

use super::snapshot::Snapshot;

/// One line of an execution's journal. `…Started` is on disk before the act begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum JournalEvent {
    /// The plan was accepted; nothing is done yet.
    Begun,
    /// What rollback needs is kept.
    SnapshotTaken(Snapshot),
    /// The nth step (from 0) is about to act.
    StepStarted(usize),
    /// The nth step ended.
    StepEnded(usize, StepResult),
    /// All steps ran; the check runs again.
    Verifying,
    /// Rollback is about to act.
    UndoStarted,
    /// The nth rollback step ended.
    UndoStepEnded(usize, StepResult),
    /// Everything is as it was.
    Undone,
    /// Rollback did not work: a person has to look.
    UndoFailed(String),
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepResult {
    /// It did what it says.
    Done(Applied),
    /// It failed, and may have changed something.
    Failed(String),
    /// It failed before it changed anything.
    NotBegun(String),
    /// The process ended while it ran: what it had done by then is not known.
    Interrupted,
}

impl StepResult {
    /// Whether something may be different because of it.
    pub(super) fn may_have_acted(&self) -> bool {
        match self {
            Self::Done(Applied::Repaired(_)) | Self::Failed(_) | Self::Interrupted => true,
            Self::Done(Applied::Kept) | Self::NotBegun(_) => false,
        }
    }
}

/// Where an interrupted execution was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interrupted {
    /// The snapshot, if it was taken.
    pub(super) snapshot: Option<Snapshot>,
    /// Whether any step may have acted.
    pub(super) acted: bool,
    /// Whether rollback had begun.
    pub(super) undoing: bool,
}

/// Reads a journal that has no end.
pub(super) fn replay(events: impl IntoIterator<Item = JournalEvent>) -> Interrupted {
    let mut state = Interrupted { snapshot: None, acted: false, undoing: false };
    for event in events {
        match event {
            JournalEvent::SnapshotTaken(snapshot) => state.snapshot = Some(snapshot),
            JournalEvent::StepStarted(_) => state.acted = true,
            JournalEvent::UndoStarted => state.undoing = true,
            JournalEvent::Begun
            | JournalEvent::StepEnded(..)
            | JournalEvent::Verifying
            | JournalEvent::UndoStepEnded(..)
            | JournalEvent::Undone
            | JournalEvent::UndoFailed(_) => {}
        }
    }
    state
}
