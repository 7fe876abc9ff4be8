"""Pictures of a model: still (plots), in the page (explorer) and with a kernel (widgets)."""
