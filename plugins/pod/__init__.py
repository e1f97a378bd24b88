"""A pod on a bridge: what the main plugins share. Each verb is one module; `conf.PodConf` says what is wanted."""
