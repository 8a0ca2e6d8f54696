//! Axes: where values lie, which of them are written beside, and in how many digits.

/// A value axis whose ticks are 1, 2 or 5 times a power of ten apart.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The value at its beginning.
    pub low: f64,
    /// The value at its end.
    pub high: f64,
    step: f64,
}

impl Axis {
    const TICKS: f64 = 5.0;

    /// An axis over at least `low..=high` whose ends are ticks.
    pub fn new(low: f64, high: f64) -> Self {
        // A constant needs room to be seen as one; so does what differs by rounding only.
        let size = low.abs().max(high.abs());
        let flat = high - low <= 1e-9 * size.max(1e-290);
        let room = if size == 0.0 { 1.0 } else { 0.1 * size };
        let (low, high) = if flat { (low - room, high + room) } else { (low, high) };
        let step = nice_step((high - low) / Self::TICKS);
        // A hair's breadth inwards, so that an end that is a tick does not gain another.
        let hair = 1e-6;
        Axis { low: (low / step + hair).floor() * step, high: (high / step - hair).ceil() * step, step }
    }

    /// An axis of whole steps that ends where the run does.
    pub fn of_steps(last: f64) -> Self {
        Axis { low: 0.0, high: last, step: nice_step(last / Self::TICKS).max(1.0) }
    }

    /// Where a value lies between the ends: 0 to 1.
    pub fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Values and their labels.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        let (first, last) =
            ((self.low / self.step - 1e-6).ceil() as i64, (self.high / self.step + 1e-6).floor() as i64);
        (first..=last)
            .map(|number| number as f64 * self.step)
            .map(|value| (value, self.label(value)))
            .collect()
    }

    /// All labels of an axis have the same number of digits after the point.
    fn label(&self, value: f64) -> String {
        let largest = self.low.abs().max(self.high.abs());
        let text = if value == 0.0 {
            "0".to_owned()
        } else if !(1e-3..1e7).contains(&largest) {
            let digits = (value.abs().log10().floor() - self.step.log10().floor()).max(0.0) as usize;
            format!("{value:.digits$e}")
        } else if largest >= 1e4 && self.step >= 1e3 {
            format!("{:.0}k", value / 1e3)
        } else {
            let digits = (-self.step.log10().floor()).max(0.0) as usize;
            format!("{value:.digits$}")
        };
        text.replace('-', "\u{2212}")
    }
}

/// The least of 1, 2 or 5 times a power of ten that is at least `raw`.
fn nice_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|nice| nice * power)
        .find(|step| *step >= 0.999 * raw)
        .unwrap_or(raw)
}

/// A value with three significant digits.
pub fn significant(value: f64) -> String {
    let magnitude = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    let text = if (-4.0..7.0).contains(&magnitude) {
        let digits = (2.0 - magnitude).max(0.0) as usize;
        format!("{value:.digits$}")
    } else {
        format!("{value:.2e}")
    };
    text.replace('-', "\u{2212}")
}
