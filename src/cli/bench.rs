//! `asft bench`: how fast this machine is, at sizes of real models with random weights.

use asft::bench::workload::{Amount, RAGGED_MEAN};
use asft::bench::{BenchError, Kind, Request, Shape, Workload, shape::SHAPES};
use asft::config::DeviceArguments;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};

use super::exit::OrUsage;
use super::{ExitStatus, bench_kernels, bench_step};

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct BenchArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// One training step: seconds, tokens, memory, utilisation
    Step(bench_step::StepArguments),
    /// Each operation of the device against the rates of a copy and a product in the same run
    Kernels(bench_kernels::KernelArguments),
}

/// Measures and prints.
pub fn run(arguments: &BenchArguments) -> anyhow::Result<ExitStatus> {
    match &arguments.what {
        What::Step(arguments) => bench_step::run(arguments),
        What::Kernels(arguments) => bench_kernels::run(arguments),
    }
}

/// The flags that both have.
#[derive(Args, Clone, Debug)]
pub struct CommonArguments {
    /// The model's sizes: 57m for a CPU; quickstart is the README's; 1b, 3b and 8b are Llama-3.2-1B and -3B and Llama-3-8B
    #[arg(long, value_name = "SHAPE", default_value = "57m", help_heading = "Workload",
          value_parser = PossibleValuesParser::new(SHAPES.map(|shape| shape.name)))]
    shape: String,
    /// Tokens of a prompt [default: 512; 128 with 57m, 17 with quickstart, and even lengths]
    #[arg(long, value_name = "TOKENS", help_heading = "Workload", value_parser = parse_count)]
    prompt: Option<usize>,
    /// Tokens of an answer [default: 512; 384 with 57m, 5 with quickstart, and even lengths]
    #[arg(long, value_name = "TOKENS", help_heading = "Workload", value_parser = parse_count)]
    response: Option<usize>,
    /// The objective, with its default parameters
    #[arg(long, value_name = "NAME", default_value = "asft", help_heading = "Workload")]
    objective: String,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print JSON lines instead of a table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// How the lengths of pairs are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WorkloadName {
    /// All alike
    Even,
    /// From a table of log-normal draws, the same as in benchmarks of other programs
    Ragged,
}

impl From<WorkloadName> for Kind {
    fn from(name: WorkloadName) -> Self {
        match name {
            WorkloadName::Even => Self::Even,
            WorkloadName::Ragged => Self::Ragged,
        }
    }
}

impl CommonArguments {
    /// The request for so many pairs or tokens; what cannot work is an error of usage.
    pub fn request(&self, kind: Kind, amount: Option<Amount>, steps: usize) -> anyhow::Result<Request> {
        let shape = Shape::find(&self.shape).unwrap_or_else(|| unreachable!("clap knows the names"));
        let defaults = Defaults::of(shape);
        let (prompt, response) = match kind {
            Kind::Even => (defaults.prompt, defaults.response),
            Kind::Ragged => (RAGGED_MEAN, RAGGED_MEAN),
        };
        let (prompt, response) = (self.prompt.unwrap_or(prompt), self.response.unwrap_or(response));
        let amount = amount.unwrap_or(Amount::Pairs(defaults.pairs));
        let workload = Workload::new(kind, prompt, response, amount).or_usage()?;
        Ok(Request { shape, objective: self.objective.clone(), workload, device: self.device.clone(), steps })
    }

    /// The device that was asked for.
    pub fn choose(&self, request: &Request) -> anyhow::Result<super::device::Chosen> {
        let config = request.config(std::path::Path::new("")).or_usage()?;
        let device = &config.device;
        super::device::choose(device.device, device.threads, device.formats.dtype)
    }
}

/// The workload of a shape unless something else is asked for.
struct Defaults {
    pairs: usize,
    prompt: usize,
    response: usize,
}

impl Defaults {
    /// The quickstart's model has its batches at their mean lengths, the small one sequences of 512 tokens, 128 of them
    /// prompt; the others 8 pairs of 512 and twice 512.
    fn of(shape: Shape) -> Self {
        match shape.name {
            "quickstart" => Self { pairs: 32, prompt: 17, response: 5 },
            "57m" => Self { pairs: 4, prompt: 128, response: 384 },
            _ => Self { pairs: 8, prompt: 512, response: 512 },
        }
    }
}

/// What could not be planned or typed is an error of usage; what the device answered is not.
pub fn outcome<T>(result: Result<T, BenchError>) -> anyhow::Result<T> {
    match result {
        Err(error @ (BenchError::Backend(_) | BenchError::NotFinite { .. })) => Err(error.into()),
        result => result.or_usage(),
    }
}

/// A count of at least 1, in units or in k (1024): `64k`.
pub fn parse_count(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1024),
        None => (text, 1),
    };
    let count = digits.parse::<usize>().ok().and_then(|count| count.checked_mul(unit));
    count
        .filter(|count| *count > 0)
        .ok_or_else(|| "a number of at least 1, such as 1536 or 64k (65,536)".to_owned())
}

/// Seconds in a unit that people read.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.3} s"),
        s if s >= 1e-3 => format!("{:.3} ms", 1e3 * s),
        s => format!("{:.1} us", 1e6 * s),
    }
}

/// Operations per second, from 10^12 per second.
pub fn flops(tera: f64) -> String {
    if tera >= 1.0 { format!("{tera:.2} TFLOP/s") } else { format!("{:.2} GFLOP/s", 1e3 * tera) }
}

/// Bytes in GiB.
pub fn gib(bytes: u64) -> String {
    format!("{:.3} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_may_end_in_k() {
        assert_eq!(parse_count("64k"), Ok(65_536));
        assert_eq!(parse_count("7"), Ok(7));
        for wrong in ["0", "-1", "k", "1.5k", "", "99999999999999999999k"] {
            assert!(parse_count(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!([2.5, 0.0123, 4.56e-6].map(time), ["2.500 s", "12.300 ms", "4.6 us"]);
        assert_eq!([789.123, 0.4567].map(flops), ["789.12 TFLOP/s", "456.70 GFLOP/s"]);
    }
}
