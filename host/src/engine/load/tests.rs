//! Options that are refused before a file is opened.

use super::*;
