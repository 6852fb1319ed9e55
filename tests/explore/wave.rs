//! A wave as it is applied: by object, in order within one, and how far each may come before everything stops.

use reeve::plan::{ObjectKey, Plan, Step};

/// Combinations of prefixes that are tried for one wave; beyond, prefixes in two orders.
const MOST_COMBINATIONS: usize = 48;

/// Bookkeeping goes with the steps.
pub fn by_object(wave: &Plan) -> Vec<(&ObjectKey, Vec<&Step>)> {
    let mut objects: Vec<(&ObjectKey, Vec<&Step>)> = Vec::new();
    for step in wave.steps.iter().chain(&wave.records) {
        match objects.iter_mut().find(|(object, _)| **object == step.object) {
            Some((_, steps)) => steps.push(step),
            None => objects.push((&step.object, vec![step])),
        }
    }
    objects
}

/// How far each object may have come when everything stops.
pub fn prefixes(objects: &[(&ObjectKey, Vec<&Step>)]) -> Vec<Vec<usize>> {
    let lengths: Vec<usize> = objects.iter().map(|(_, steps)| steps.len()).collect();
    let combinations = lengths.iter().try_fold(1_usize, |product, length| product.checked_mul(length + 1));
    if combinations.is_some_and(|combinations| combinations <= MOST_COMBINATIONS) {
        let mut all: Vec<Vec<usize>> = vec![Vec::new()];
        for length in &lengths {
            all = all
                .into_iter()
                .flat_map(|prefix| (0..=*length).map(move |taken| [prefix.clone(), vec![taken]].concat()))
                .collect();
        }
        all.retain(|prefix| prefix.iter().any(|taken| *taken > 0));
        return all;
    }
    let mut some = Vec::new();
    let orders: [Vec<usize>; 2] = [(0..lengths.len()).collect(), (0..lengths.len()).rev().collect()];
    for order in orders {
        let mut prefix = vec![0; lengths.len()];
        for index in order {
            for taken in 1..=lengths[index] {
                prefix[index] = taken;
                some.push(prefix.clone());
            }
        }
    }
    // One object stops at each of its steps while the others go on.
    for index in 0..lengths.len() {
        for taken in 0..lengths[index] {
            let mut prefix = lengths.clone();
            prefix[index] = taken;
            some.push(prefix);
        }
    }
    some
}
