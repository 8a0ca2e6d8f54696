//! The table of what the compiler made of `kernels/*.cu`: `docs/kernels.md`.
//!
//! ```text
//! cargo run --example kernel_table                prints it
//! cargo run --example kernel_table -- --write     writes it
//! cargo run --example kernel_table -- --budgets   prints the budget lines that the kernels would satisfy as they are
//! ```

mod cubin;
#[allow(dead_code, reason = "the tests need more of it than the table")]
mod table;

use std::path::Path;

use anyhow::bail;
use asft::backend::cuda::images;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => print!("{}", table::document()?),
        ["--write"] => {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kernels.md");
            fs_err::write(file, table::document()?)?;
        }
        ["--budgets"] => {
            for source in images::kernel_sources() {
                println!("{source}");
                for built in table::built(source)?.values() {
                    println!("{}", table::Budget::of(built).line());
                }
            }
        }
        _ => bail!("usage: kernel_table [--write | --budgets]"),
    }
    Ok(())
}
