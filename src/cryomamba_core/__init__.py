"""What every part of CryoMamba shares: vocabulary, extension points, plugin host, worker and test kit."""
