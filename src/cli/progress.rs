//! The progress bar: one line on standard error while a person watches, nothing when none does.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// How often the line is drawn at most.
const REDRAW_MIN: Duration = Duration::from_millis(100);

/// The bar of one phase after another. Where standard error is no terminal it draws nothing.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    drawn: Instant,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{prefix:>20} [{bar:40}] {msg}");
        bar.set_style(style.expect("the template is constant").progress_chars("=> "));
        Progress { bar, drawn: Instant::now() }
    }

    /// Starts a phase that counts up to `steps`.
    pub(crate) fn phase(&mut self, name: &'static str, steps: u64) {
        self.bar.reset();
        self.bar.set_length(steps);
        self.bar.set_prefix(name);
        self.bar.set_message("");
        self.bar.tick();
    }

    /// Whether enough time has passed to draw again.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now.duration_since(self.drawn) >= REDRAW_MIN
    }

    /// Draws the phase at `step`, with something to say.
    pub(crate) fn draw(&mut self, now: Instant, step: u64, message: String) {
        self.drawn = now;
        self.bar.set_message(message);
        self.bar.set_position(step);
        self.bar.tick();
    }

    /// Removes the line, so that the report stands alone.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
