//! Large parts of an observation that one look hands to the next: a copy costs nothing until somebody changes it.
//!
//! What the backend keeps, what a pass sees and what is kept of the last pass are the same for all that has not changed; with
//! ten thousand instances in the catalog each copy of them would be megabytes.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A value that its copies share. Changing one copy leaves the others as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shared<T>(Arc<T>);

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}
