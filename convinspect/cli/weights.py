def weights(): pass
