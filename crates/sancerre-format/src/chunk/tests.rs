//! Cuts are pinned, belong to the bytes, and do not depend on windows.
