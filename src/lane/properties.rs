//! What holds for the lane whatever happens.
