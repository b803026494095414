//! Files: how they are written so that none is ever half written.
