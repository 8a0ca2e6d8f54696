//! Weighted means of named figures, filled group by group. Boundary: adds up and divides; what a figure means is
//! the business of the objective that adds it.

/// Name -> (weighted sum, weight), in the order in which the names came.
///
/// Sums are taken in the order of the calls: the same groups added to one `Metrics` in the same order give the
/// same bits, however they were cut into batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    name: &'static str,
    sum: f64,
    weight: f64,
}

impl Metrics {
    /// No metric yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `value`, the mean over `weight` units (groups or tokens). A weight of 0 adds nothing.
    pub fn add(&mut self, name: &'static str, value: f64, weight: f64) {
        if weight != 0.0 {
            self.accumulate(name, value * weight, weight);
        }
    }

    /// Adds all that `other` holds.
    pub fn merge(&mut self, other: &Metrics) {
        for entry in &other.entries {
            self.accumulate(entry.name, entry.sum, entry.weight);
        }
    }

    /// Adds what `other` holds under names that are new here.
    pub fn merge_new(&mut self, other: &Metrics) {
        let known = self.entries.len();
        for entry in &other.entries {
            if self.entries[..known].iter().all(|own| own.name != entry.name) {
                self.accumulate(entry.name, entry.sum, entry.weight);
            }
        }
    }

    /// The weighted mean of every metric, in the order in which they first came.
    pub fn means(&self) -> Vec<(&'static str, f64)> {
        self.entries.iter().map(|entry| (entry.name, entry.sum / entry.weight)).collect()
    }

    /// The weighted mean of one metric, if it was given.
    pub fn mean(&self, name: &str) -> Option<f64> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| entry.sum / entry.weight)
    }

    /// Weighted sum and weight of one metric, if it was given: what means over other choices of the same groups are made of.
    pub fn weighted(&self, name: &str) -> Option<(f64, f64)> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| (entry.sum, entry.weight))
    }

    // A dozen names at most: a linear search beats hashing and keeps the order.
    fn accumulate(&mut self, name: &'static str, sum: f64, weight: f64) {
        match self.entries.iter_mut().find(|entry| entry.name == name) {
            Some(entry) => {
                entry.sum += sum;
                entry.weight += weight;
            }
            None => self.entries.push(Entry { name, sum, weight }),
        }
    }
}
