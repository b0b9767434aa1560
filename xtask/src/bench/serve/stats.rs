//! Numbers of many.

/// Seconds in ascending order.
#[derive(Clone, Debug, PartialEq)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    /// Of any order.
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        Self(values)
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// The least value that so many of a hundred do not exceed; `NaN` of none.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or(f64::NAN)
    }
    /// The mean; `NaN` of none.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }
}

/// Seconds as milliseconds.
pub fn ms(seconds: f64) -> String {
    let ms = seconds * 1e3;
    if ms < 10.0 { format!("{ms:.3}") } else { format!("{ms:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let sorted = Sorted::new((1..=200).rev().map(f64::from).collect());
        let of = |percent| sorted.percentile(percent);
        assert_eq!((of(50), of(90), of(99), of(100)), (100.0, 180.0, 198.0, 200.0));
        assert_eq!(sorted.mean(), 100.5);
        assert!(Sorted::new(vec![]).percentile(50).is_nan());
        assert_eq!(Sorted::new(vec![7.0]).percentile(1), 7.0);
    }
}
