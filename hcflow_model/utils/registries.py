"""What BasicSR's registries hold, and whose it is."""


def is_registered(name: object, registry) -> bool:
    """Whether BasicSR finds the name: it registers some of its own as NAME_basicsr and finds them as NAME."""
    return isinstance(name, str) and (name in registry or f'{name}_basicsr' in registry)


def is_known(name: str, registry) -> bool:
    """Whether a registered name is BasicSR's or ours: what options of other packages mean is theirs to say."""
    return registry.get(name).__module__.partition('.')[0] in ('basicsr', 'hcflow_arch', 'hcflow_model')
