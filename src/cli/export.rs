//! `asft export`: a trained model in the format of another program.

use std::path::PathBuf;

use anyhow::anyhow;
use asft::checkpoint::gguf::{Encoding, GgufExport};
use asft::checkpoint::{ModelFolder, hub};
use asft::eval::Progress;
use bytesize::ByteSize;
use clap::{Args, Subcommand, ValueEnum};

use super::exit::OrUsage;
use super::progress::Bars;
use super::{ExitStatus, output};

/// What to write.
#[derive(Args, Clone, Debug)]
pub struct ExportArguments {
    #[command(subcommand)]
    format: Format,
}

#[derive(Subcommand, Clone, Debug)]
enum Format {
    /// One GGUF file, for llama.cpp and what is built on it
    Gguf(GgufArguments),
}

#[derive(Args, Clone, Debug)]
struct GgufArguments {
    /// Hugging Face folder of the Llama, or its name on the Hub
    #[arg(long, value_name = "DIR", visible_alias = "model-name-or-path")]
    model: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE.gguf")]
    output: PathBuf,
    /// How matrices are stored [default: as in the folder]
    #[arg(long = "type", value_name = "TYPE", visible_alias = "outtype")]
    encoding: Option<Type>,
    /// The model's name in the file [default: the folder's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// llama.cpp's name of the pre-tokenizer, where it cannot be told from tokenizer.json
    #[arg(long, value_name = "NAME")]
    pre_tokenizer: Option<String>,
    /// Replace the file if it exists
    #[arg(long)]
    overwrite: bool,
}

/// [`Encoding`] as a flag.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Type {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0", alias = "q8-0")]
    Q8_0,
}

impl From<Type> for Encoding {
    fn from(name: Type) -> Self {
        match name {
            Type::F32 => Encoding::F32,
            Type::F16 => Encoding::F16,
            Type::Bf16 => Encoding::BF16,
            Type::Q8_0 => Encoding::Q8_0,
        }
    }
}

/// Writes the file.
pub fn run(arguments: &ExportArguments) -> anyhow::Result<ExitStatus> {
    let Format::Gguf(arguments) = &arguments.format;
    if arguments.output.exists() && !arguments.overwrite {
        let path = arguments.output.display();
        return Err(anyhow!("{path} exists; choose another --output, or say --overwrite")).or_usage();
    }
    let folder = ModelFolder::open(&hub::locate(&arguments.model).or_usage()?.folder).or_usage()?;
    let encoding = arguments.encoding.map_or_else(|| folder.dtype().into(), Encoding::from);
    let whole = arguments.model.canonicalize().unwrap_or_else(|_| arguments.model.clone());
    let folder_name = whole.file_name().unwrap_or_default().to_string_lossy();
    let export = GgufExport {
        folder: &folder,
        encoding,
        name: arguments.name.as_deref().unwrap_or(&folder_name),
        pre_tokenizer: arguments.pre_tokenizer.as_deref(),
    };
    let mut bars = Bars::default();
    let mut begun = false;
    let exported = export.write(&arguments.output, &mut |done, total| {
        if !std::mem::replace(&mut begun, true) {
            bars.begin("writing tensors", total);
        }
        bars.advance(done, "");
    })?;
    bars.end();
    if let [first, ..] = &exported.kept_f16[..] {
        let count = exported.kept_f16.len();
        tracing::warn!(
            "{count} tensors ({first}, ...) are stored in f16: q8_0 needs rows that are a multiple of 32"
        );
    }
    output::print(&format!(
        "{}: {} tensors in {encoding}, {}\n",
        arguments.output.display(),
        exported.tensors,
        ByteSize(exported.bytes)
    ))?;
    Ok(ExitStatus::Success)
}
