//! What a run leaves in its folder: checkpoints, the result, the model card; and what is said when it cannot be written.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use super::card::{Evaluated, ModelCard};
use super::run::Run;
use super::{TrainError, Trainer, resume};
use crate::backend::Backend;
use crate::checkpoint::export::is_weight_file;
use crate::checkpoint::hub::HubName;
use crate::checkpoint::resume::{ResumeState, Slot, checkpoint_path, prune, write_resume};
use crate::checkpoint::{CheckpointError, ModelExport, atomic, space};
use crate::config::{EvalSource, ModelSource, Redraw};
use crate::objective::Parameters;
use crate::optim::Moment;

/// Why a checkpoint is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// An interval, a signal, or a step that was not finite.
    Asked,
    /// It is the best so far, and for nothing else: it goes when a better one comes.
    Best,
}

impl<B: Backend> Run<'_, B> {
    /// `checkpoint-N/`: a complete folder and the resume state. Older ones are pruned once it is there.
    pub(super) fn save_checkpoint(&mut self, step: usize, reason: Reason) -> Result<PathBuf, TrainError> {
        let path = checkpoint_path(&self.prepared.config.run.output, step);
        let saved = self.write_checkpoint(step, &path, reason);
        self.or_remedy(|| format!("the state after step {step}"), saved)?;
        tracing::info!("saved {}", path.display());
        self.last_saved = Some(path.clone());
        self.restart_clock();
        Ok(path)
    }

    fn write_checkpoint(&mut self, step: usize, path: &Path, reason: Reason) -> Result<(), TrainError> {
        self.log.sync()?;
        if let Some(samples) = &self.samples {
            samples.sync()?;
        }
        if self.history.is_best(step) {
            self.history.state.best_model_checkpoint = Some(name_of(path));
        }
        atomic::save_folder(path, |folder| -> Result<(), TrainError> {
            self.write_model(folder)?;
            self.history.state.save(&folder.join(resume::STATE_FILE))?;
            self.write_card(folder, step, false)?;
            self.write_resume(folder, step, reason)
        })?;
        let run = &self.prepared.config.run;
        prune(&run.output, run.keep.unwrap_or(usize::MAX), self.history.state.best_global_step)?;
        Ok(())
    }

    fn write_model(&mut self, folder: &Path) -> Result<(), CheckpointError> {
        let prepared = self.prepared;
        let Trainer { backend, model, .. } = &mut self.trainer;
        let export = ModelExport {
            template: prepared.encoder.given_template(),
            ..ModelExport::new(&prepared.model, prepared.save_dtype(), prepared.tokenizer.as_deref())
        };
        export.write(folder, &mut |name: &str, start: usize, out: &mut [f32]| {
            Ok(model.read_weight(backend, name, start, out)?)
        })
    }

    fn write_resume(&mut self, folder: &Path, step: usize, reason: Reason) -> Result<(), TrainError> {
        let prepared = self.prepared;
        let state = ResumeState {
            step,
            epoch: self.history.state.epoch,
            tokens_seen: self.history.state.num_input_tokens_seen,
            planned_steps: prepared.steps,
            skipped_steps: self.trainer.skipped,
            missed_updates: self.missed_updates(step),
            only_best: reason == Reason::Best,
            ..ResumeState::new(prepared.config.fingerprint(), self.inputs.clone())
        };
        let Trainer { backend, model, optimizer, .. } = &mut self.trainer;
        let slots = Slot::of_export(prepared.save_dtype());
        let mut values = |slot: Slot, name: &str, start: usize, out: &mut [f32]| {
            let place = model.table.span(&[name.to_owned()]).start + start;
            match slot {
                Slot::M => optimizer.read_moment(backend, Moment::First, place, out)?,
                Slot::V => optimizer.read_moment(backend, Moment::Second, place, out)?,
                Slot::Master => model.read_weight(backend, name, start, out)?,
            }
            Ok(())
        };
        Ok(write_resume(folder, &state, &super::begin::parameters(prepared), slots, &mut values)?)
    }

    fn missed_updates(&self, step: usize) -> Vec<u64> {
        let Trainer { model, half, skipped, .. } = &self.trainer;
        let updates = (step - skipped) as u64;
        half.as_ref().map(|half| half.missed(&model.table, updates)).unwrap_or_default()
    }

    /// The result at the top of the run folder: the model on the device, which is that after `step`.
    pub(super) fn save_result(&mut self, step: usize) -> Result<(), TrainError> {
        let saved = self.write_result(step);
        self.or_remedy(|| "the result".to_owned(), saved)
    }

    fn write_result(&mut self, step: usize) -> Result<(), TrainError> {
        let run = self.prepared.config.run.output.clone();
        atomic::save_into(&run, resume::STATE_FILE, is_weight_file, |folder| -> Result<(), TrainError> {
            self.write_model(folder)?;
            self.history.state.save(&folder.join(resume::STATE_FILE))?;
            self.write_card(folder, step, true)?;
            let steps = self.history.state.global_step;
            let subtitle = format!("{}, {steps} steps", self.prepared.objective.name());
            let svg = self.history.curves.to_svg(&name_of(&run), &subtitle);
            Ok(atomic::save_bytes(&folder.join("curves.svg"), svg.as_bytes())?)
        })
    }

    /// The card of the model after `step`; `is_run` says whether the files of the run lie beside it.
    fn write_card(&self, folder: &Path, step: usize, is_run: bool) -> Result<(), CheckpointError> {
        let prepared = self.prepared;
        let config = &prepared.config;
        let evaluation = self.history.first_and_at(step);
        let evaluation: Vec<Evaluated<'_>> = evaluation
            .iter()
            .map(|(metric, before, after)| Evaluated { metric, before: *before, after: *after })
            .collect();
        let files: Vec<&Path> = config.data.files.iter().map(|file| file.path.as_path()).collect();
        let eval_files: Vec<&Path> = match &config.evaluation.source {
            EvalSource::Files(files) => files.iter().map(PathBuf::as_path).collect(),
            EvalSource::None | EvalSource::Split(_) => Vec::new(),
        };
        let base = match &config.model {
            ModelSource::Folder(path) => Some(base_name(path)),
            ModelSource::Init { .. } => None,
        };
        let name = name_of(&config.run.output);
        let hyper_parameters = self.hyper_parameters(step);
        let card = ModelCard {
            name: &name,
            base_model: base.as_deref(),
            objective: prepared.objective.name(),
            hyper_parameters: &hyper_parameters,
            data: &files,
            eval_data: &eval_files,
            evaluation: &evaluation,
            chat: prepared.encoder.template().is_some(),
            is_run,
        };
        atomic::save_bytes(&folder.join("README.md"), card.to_markdown().as_bytes())
    }

    /// Settings worth knowing, and what became of them, of the model after `step`.
    fn hyper_parameters(&self, step: usize) -> Vec<(&'static str, String)> {
        let (prepared, state) = (self.prepared, &self.history.state);
        let config = &prepared.config;
        let schedule = prepared.schedule;
        let mut shown = vec![
            ("steps", prepared.steps.to_string()),
            ("epochs", format!("{:.2}", prepared.epochs)),
            ("pairs per step", config.batch.groups.to_string()),
            ("learning rate", config.optimizer.learning_rate.to_string()),
            ("schedule", format!("{}, {} warm-up steps", schedule.kind.name(), schedule.warmup_steps)),
            ("seed", config.run.seed.to_string()),
        ];
        match config.optimizer.half {
            None => {}
            Some(Redraw::Epoch) => shown.push(("half fine-tuning", "another half every epoch".to_owned())),
            Some(Redraw::Steps(steps)) => {
                shown.push(("half fine-tuning", format!("another half every {steps} steps")));
            }
        }
        if self.history.is_over() {
            shown.push(("stopped early after", format!("{} steps", state.global_step)));
        }
        if let Some(best) = self.history.best.as_ref().filter(|best| best.config().load_at_end) {
            let metric = &best.config().metric;
            shown.push(("model of", format!("step {step}, chosen by {metric}")));
        }
        if self.trainer.skipped > 0 {
            shown.push(("steps skipped (not finite)", self.trainer.skipped.to_string()));
        }
        shown.extend(objective_parameters(&config.objective.parameters));
        shown
    }

    /// Where something of the run could not be written because of the place: what would help, and where the run goes on.
    pub(super) fn or_remedy<T>(
        &self,
        what: impl FnOnce() -> String,
        result: Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        result.map_err(|error| {
            let Some(kind) = refused(&error) else { return error };
            let run = self.prepared.config.run.output.display();
            let needed = bytesize::ByteSize(self.prepared.disk.folders.checkpoint);
            let free = space::available(&self.prepared.config.run.output).map(bytesize::ByteSize);
            let free = free.map_or_else(String::new, |free| format!(", and {free} are free"));
            let remedy = match kind {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    format!("There is no space left for {run}; a checkpoint takes {needed} there beside the older ones{free}")
                }
                io::ErrorKind::FileTooLarge => {
                    format!("A limit on the size of files (ulimit -f) is in the way; a checkpoint takes {needed}")
                }
                io::ErrorKind::NotFound => format!("{run} is not there any more; was it moved or deleted?"),
                _ => format!("The folder {run} and what is in it must be writable for this user"),
            };
            TrainError::Save { what: what(), remedy, last: self.last_saved.clone(), source: Box::new(error) }
        })
    }
}

/// What the system refused, if an error comes from it.
fn refused(error: &TrainError) -> Option<io::ErrorKind> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

/// The objective's parameters in use, by name.
fn objective_parameters(parameters: &Parameters) -> Vec<(&'static str, String)> {
    let values = serde_json::to_value(parameters).unwrap_or_default();
    parameters.typed().into_iter().map(|name| (name, values[name].to_string().replace('"', ""))).collect()
}

/// The name of the Hub where the model came under one, else that of its folder.
fn base_name(path: &Path) -> String {
    let of_hub = HubName::parse(path).filter(|_| !path.exists());
    of_hub.map_or_else(|| name_of(path), |name| name.repository)
}

fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
