# What a wheel has beside the Python files (pyproject.toml, scripts/wheel): the module, the programs
# with all that they load, the worker bundle; and the licenses of what it carries along. Everything
# stands in the package's own folder, where the module and the programs look for one another.
find_program(MUSTER_PATCHELF patchelf REQUIRED NO_CACHE)

install(TARGETS muster_native LIBRARY DESTINATION muster COMPONENT wheel)
install(TARGETS muster_cli muster-broker muster-worker muster-runner
        RUNTIME DESTINATION muster/bin COMPONENT wheel)
install(FILES ${MUSTER_BUNDLE} ${MUSTER_BUNDLE}.sha256
        DESTINATION muster/share/muster COMPONENT wheel)
install(CODE "set(patchelf \"${MUSTER_PATCHELF}\")
set(licenses \"${SKBUILD_METADATA_DIR}/licenses/libraries\")" COMPONENT wheel)
install(SCRIPT ${PROJECT_SOURCE_DIR}/cmake/wheel_libraries.cmake COMPONENT wheel)
